"""A custom kind of constraint. A row uses it with {"id": "mine:rhymes", "kwargs": {"ending": "ight"}}."""

from rlcore.rewards.constraints import constraint, constraints

__all__ = ["constraints"]  # the reward that reward.fn names


@constraint("mine:rhymes")
def rhymes(text: str, ending: str, num_lines: int = 2) -> bool:
    """True if at least `num_lines` lines end with `ending`."""
    return sum(line.rstrip(" .,!?").lower().endswith(ending.lower()) for line in text.splitlines()) >= num_lines
