"""Ages of trained tokens, and the rows that parity may compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcore import metrics as M
from rlcore.loops.staleness import current_rows, staleness
from rlcore.types import Trajectory


def sample(versions: Sequence[int], begun: int = -1, masked: Sequence[int] = ()) -> Trajectory:
    """A prompt token, then one token per version; those at the indices `masked` are not trained."""
    trained = [False, *(i not in masked for i in range(len(versions)))]
    return Trajectory(
        uid="p",
        sample_id="p#0.0",
        tokens=np.arange(1 + len(versions), dtype=np.int32),
        loss_mask=np.array(trained),
        rollout_logprobs=np.zeros(1 + len(versions), np.float32),
        versions=np.array([-1, *versions], np.int32),
        num_prompt_tokens=1,
        finish_reason="stop",
        text="",
        begun_version=begun,
    )


def test_ages_by_hand():
    """Ages 3, 1, 0, 0 and 1; the tool's token has no version and the masked one is not trained."""
    trained = [sample([2, 4, 5, 5]), sample([4, -1, 0], masked=[1, 2])]
    metrics = staleness(trained, version=5)
    assert M.values(metrics) == {
        "rollout/age_mean": 1.0,
        "rollout/age_max": 3,
        "rollout/tokens_age_0": 0.4,
        "rollout/tokens_age_1": 0.4,
        "rollout/tokens_age_2": 0.0,
        "rollout/tokens_age_3": 0.2,
    }
    assert metrics["rollout/age_mean"] == M.Mean(5.0, 5)


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=5), min_size=1, max_size=8))
def test_shares_add_up_and_give_the_mean(versions: list[list[int]]):
    found = M.values(staleness([sample(of) for of in versions], version=6))
    shares = {int(name.rpartition("_")[2]): x for name, x in found.items() if "tokens_age" in name}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert sum(age * share for age, share in shares.items()) == pytest.approx(found["rollout/age_mean"])
    assert max(shares) == found["rollout/age_max"]
    assert shares[max(shares)] > 0


def test_nothing_trained_has_no_age():
    assert staleness([], version=3) == {}
    assert staleness([sample([-1, -1])], version=3) == {}  # the reference's


def test_a_token_from_the_future_is_an_error():
    with pytest.raises(ValueError, match=r"p#0\.0 has tokens of version 4, the trainer's weights are version 3"):
        staleness([sample([3, 4])], version=3)


@pytest.mark.parametrize(
    ("trajectory", "current"),
    [
        (sample([5, 5], begun=5), True),
        (sample([5, 5]), True),  # an engine that does not tell
        (sample([5, -1, 5], begun=5), True),  # a tool's token was not sampled
        (sample([5, 5], begun=4), False),  # the prompt's cache is of older weights
        (sample([4, 5], begun=4), False),
        (sample([4, 5]), False),
        (sample([4, 4], begun=4), False),
        (sample([-1, -1]), False),  # a reference's
        (sample([], begun=5), False),
    ],
)
def test_rows_of_the_current_version(trajectory: Trajectory, current: bool):
    other = sample([5], begun=5)
    assert current_rows([trajectory, other], version=5) == ([0, 1] if current else [1])
