"""1.0 for the right digits, minus 0.1 for every extra character."""

import rlcore


@rlcore.reward("my_reward")
def my_reward(sample: rlcore.RewardInput) -> float:
    answer = sample.response.strip()
    right = answer.startswith(sample.reference or "")
    return max(0.0, float(right) - 0.1 * max(0, len(answer) - len(sample.reference or "")))
