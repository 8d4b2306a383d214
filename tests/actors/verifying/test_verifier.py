import os
from pathlib import Path

import numpy as np
import pytest

from actors.verifying.verifier import GroupInput, VerifierWorker, terms_of
from rlcore.rewards.composition import Term
from rlcore.rewards.config import MathAnswer, MathConfig, OnFailure, RewardConfig, RewardTermConfig, Tier
from rlcore.rewards.registry import RewardError
from rlcore.types import Group, Prompt, RewardResult, Status, Trajectory

ROOT = Path(__file__).parents[3]
EXAMPLE = "examples/custom_reward/my_reward.py:my_reward"
FILE = """
import rlcore.rewards
from rlcore.types import RewardResult

@rlcore.rewards.reward("registered")
def seen(sample):
    return RewardResult(0.5, info={"seen": [sample.prompt, sample.response, sample.reference, sample.finish_reason,
                                            sample.num_response_tokens, sample.metadata["level"]]})

def broken(sample):
    return None
"""


def prompt_of(reference="12", rewards=(), uid="u") -> Prompt:
    return Prompt(uid, (1, 2), "5+7=", reference, rewards, {"level": 3})


def group(texts, reference="12", rewards=(), uid="u") -> GroupInput:
    prompt = prompt_of(reference, rewards, uid)
    trajectories = [
        Trajectory(
            uid=uid,
            sample_id=f"{uid}#0.{k}",
            tokens=np.arange(5, dtype=np.int32),
            loss_mask=np.ones(5, bool),
            rollout_logprobs=np.zeros(5, np.float32),
            versions=np.zeros(5, np.int32),
            num_prompt_tokens=2,
            finish_reason="length",
            text=text,
        )
        for k, text in enumerate(texts)
    ]
    return GroupInput.of(Group(prompt, trajectories))


@pytest.fixture
def worker():
    made = VerifierWorker()
    yield made
    made.shutdown()


def config(*terms, **settings) -> RewardConfig:
    math = MathConfig(MathAnswer.free)
    return RewardConfig(**{"terms": list(terms) or [RewardTermConfig()], "timeout_s": 20.0, "math": math, **settings})


def test_scores_groups_in_order(worker):
    worker.start(config(processes_per_worker=2), str(ROOT))
    groups = [group(["12", "13"]), group([]), group(["7", r"\boxed{8}", "nine"], reference="8")]
    scores = [[r.score for r in results] for results in worker.score(groups)]
    assert scores == [[1.0, 0.0], [], [0.0, 1.0, 0.0]]


def test_rows_choose_their_rewards_and_see_their_sample(worker, tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    terms = [RewardTermConfig(), RewardTermConfig(fn="mine.py:seen", weight=2.0)]
    worker.start(config(*terms), str(tmp_path))
    names = [(), ("seen",), ("registered",), ("math",), ("math", "seen"), ("mat",)]
    groups = [group(["12"], rewards=named) for named in names]
    default, by_function, by_name, builtin, both, unknown = worker.score(groups)
    assert (default[0].score, default[0].parts) == (2.0, {"math": 1.0, "seen": 0.5})
    assert by_function[0].score == 1.0  # with the weight of the term
    assert by_function[0].info["seen"] == ["5+7=", "12", "12", "length", 3, 3]
    assert by_name[0].score == 0.5
    assert builtin[0].score == 1.0
    assert both[0].score == 2.0
    assert unknown[0].status is Status.ERROR
    assert "did you mean 'math'" in unknown[0].info["error"]


def test_the_example(worker):
    worker.start(config(fn=EXAMPLE), str(ROOT))
    [results] = worker.score([group(["12", "123", "0"])])
    assert [r.score for r in results] == [1.0, 0.9, 0.0]
    assert worker.smoke(prompt_of()).score == 1.0


def test_smoke_refuses_a_broken_reward(worker, tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    worker.start(config(fn="mine.py:broken", on_failure=OnFailure.fail), str(tmp_path))
    with pytest.raises(RewardError, match=r"broken.*returned None"):
        worker.smoke(prompt_of())
    worker.start(config(fn="mine.py:broken", on_failure=OnFailure.mask), str(tmp_path))
    assert worker.smoke(prompt_of()).status is Status.ERROR  # a warning: the run may start
    worker.start(config(fn="mine.py:borken"), str(tmp_path))
    with pytest.raises(RewardError, match="did you mean 'broken'"):
        worker.smoke(prompt_of())


def test_a_row_without_reference_is_unparsable(worker):
    worker.start(config(), str(ROOT))
    result = worker.score([group(["12"], reference=None)])[0][0]
    assert result.status is Status.UNPARSABLE
    assert "data.columns.reference" in result.info["error"]
    assert worker.smoke(prompt_of(reference=None)).status is Status.UNPARSABLE


def test_describe_and_shutdown(worker):
    assert worker.describe()["children"] == []
    with pytest.raises(RuntimeError, match="not started"):
        worker.score([group(["12"])])
    worker.start(config(), str(ROOT))
    assert worker.score([group(["12"])]) == [[RewardResult(1.0, parts={"math": 1.0}, info={"extracted": "12"})]]
    described = worker.describe()
    assert described["pid"] == os.getpid()
    assert described["host"]
    assert len(described["children"]) == 2
    worker.shutdown()
    worker.shutdown()
    assert not [pid for pid in described["children"] if Path(f"/proc/{pid}").exists()]
    worker.start(config(), str(ROOT))  # and again
    assert worker.score([group(["12"])])[0][0].score == 1.0


def test_terms_of_a_config():
    assert terms_of(config(fn="a/b.py:f"))[0] == (Term("f", "a/b.py:f"),)
    terms, by_name = terms_of(config(RewardTermConfig(), RewardTermConfig(fn="p.m:g", weight=0.5, options={"k": 1})))
    assert terms == (Term("math"), Term("g", "p.m:g", 0.5, {"k": 1}))
    assert by_name == {"math": terms[0], "g": terms[1]}
    with pytest.raises(RewardError, match="share a name: math, math"):
        terms_of(config(RewardTermConfig(), RewardTermConfig(weight=2.0)))
    with pytest.raises(RewardError, match=r"reward\.terms is empty"):
        terms_of(RewardConfig(terms=[]))


def test_the_sandbox_settings_reach_the_code_reward() -> None:
    """A tier that cannot be there: the verdict names it."""
    config = RewardConfig(terms=[RewardTermConfig("code")], timeout_s=60.0)
    config.sandbox.tier, config.sandbox.url = Tier.remote, "http://127.0.0.1:9"
    config.sandbox.retries = 0
    prompt = Prompt("p", (1,), "add", metadata={"tests": {"type": "stdin", "inputs": ["1"], "outputs": ["2"]}})
    sample = Trajectory(
        uid="p", sample_id="p#0.0", tokens=np.array([1, 2], np.int32), loss_mask=np.array([False, True]),
        rollout_logprobs=np.zeros(2, np.float32), versions=np.array([-1, 0], np.int32), num_prompt_tokens=1,
        finish_reason="stop", text="```python\nprint(int(input()) + 1)\n```",
    )  # fmt: skip
    worker = VerifierWorker()
    worker.start(config, os.getcwd())
    try:
        [[result]] = worker.score([GroupInput.of(Group(prompt, [sample]))])
    finally:
        worker.shutdown()
    assert result.status is Status.ERROR
    assert "127.0.0.1:9" in result.info["error"]
