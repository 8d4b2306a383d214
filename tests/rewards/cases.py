"""Rewards of user_rewards.py for the verifier pool, and its processes."""

import time
from pathlib import Path

from rlcore.rewards.pool import Item, Term
from rlcore.types import RewardInput

USER = Path(__file__).parent / "user_rewards.py"
MISBEHAVE = (Term("misbehave", f"{USER}:misbehave"),)


def act(*actions: str, **metadata: str) -> list[Item]:
    return [Item(MISBEHAVE, RewardInput("p", action, metadata=metadata)) for action in actions]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids, within_s=5.0) -> bool:
    deadline = time.monotonic() + within_s
    while any(map(alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
