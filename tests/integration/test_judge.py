"""A real vLLM engine as judge, started from a folder's own weights, in Ray actors on CPU."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ray = pytest.importorskip("ray")
pytest.importorskip("vllm")

from actors.config.schema import ClusterConfig, ModelConfig, RoleConfig, RolesConfig, TinyModelConfig  # noqa: E402
from actors.generation.judge import CONCURRENCY, JudgeEngine, JudgeError, JudgeWorker, start_judge  # noqa: E402
from actors.placement.group import ActorGroup  # noqa: E402
from actors.placement.placement import Placement  # noqa: E402
from actors.placement.ray_connection import stay_on_loopback  # noqa: E402
from actors.training.models import prepare_model  # noqa: E402
from rlcore.rewards.judge.config import JudgeConfig, JudgeEngineConfig, JudgeMode, JudgeReading  # noqa: E402
from rlcore.rewards.judge.pairwise import PairwiseJudge  # noqa: E402
from rlcore.rewards.judge.pointwise import PointwiseJudge  # noqa: E402
from rlcore.rewards.judge.prompts import Comparison, Question, plain  # noqa: E402
from rlcore.types import Status  # noqa: E402
from tests.rewards.judge.cases import group as group_of  # noqa: E402

pytestmark = pytest.mark.timeout(600)


TIED = pytest.param(True, id="tied", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[pytest.param(False, id="untied"), TIED])
def judge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JudgeEngine]:
    tiny = TinyModelConfig(num_layers=2, hidden_size=64, num_heads=2, intermediate_size=128, max_positions=2048,
                           tie_embeddings=request.param)  # fmt: skip
    folder = prepare_model(ModelConfig(tiny=tiny), tmp_path_factory.mktemp("judge"), seed=3)
    stay_on_loopback()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
    none = RoleConfig(num_workers=0)
    roles = RolesConfig(rollout=RoleConfig(), policy=none, verifier=none)  # the judge sits in the rollout's place
    placement = Placement.create(ClusterConfig(roles=roles))
    env = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    group = ActorGroup.create(JudgeWorker, placement.slots["rollout"], "judge", env, CONCURRENCY)
    settings = JudgeEngineConfig(path=str(folder), dtype="float32", cpu_kv_cache_gib=0.25, max_restarts=1)
    yield start_judge(group, settings, "cpu", timeout_s=300.0)
    group.shutdown()
    placement.remove()
    ray.shutdown()


def config(how: JudgeReading = JudgeReading.text, mode: JudgeMode = JudgeMode.pairwise) -> JudgeConfig:
    made = JudgeConfig(mode=mode, max_new_tokens=8)
    made.reading.how = how
    made.scale.high = 5
    return made


PAIRS = [Comparison("2+2=", "4", "5"), Comparison("2+2=", "5", "4"), Comparison("1+1=", "two", "eleven {prompt}")]


def test_log_probs_of_choices_are_those_of_the_folders_model(judge: JudgeEngine) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(judge.config.path, dtype=torch.float32).eval()
    prompts = ["Which? ", "A or B: ", [{"role": "user", "content": "Say A."}]]
    for prompt, reply in zip(prompts, judge.complete(prompts, 1, choices=("A", "B")), strict=True):
        ids = judge.tokenizer([plain(prompt)])["input_ids"]
        with torch.no_grad():
            last = model(torch.tensor(ids)).logits[0, -1]
        tokens = judge.tokenizer.convert_tokens_to_ids(["A", "B"])
        expected = last[tokens].log_softmax(-1)
        torch.testing.assert_close(torch.tensor(reply.logprobs), expected, atol=1e-4, rtol=0)
        assert reply.text == "AB"[int(expected.argmax())]


def test_choices_judge_symmetrically_and_again_the_same(judge: JudgeEngine) -> None:
    asked = PairwiseJudge(judge, config(JudgeReading.choice))
    first, second = asked.compare(PAIRS), asked.compare(PAIRS)
    assert all(v.ok for v in first)
    a, b, c = (v.preference for v in first)
    assert a is not None
    assert b is not None
    assert a + b == pytest.approx(1.0, abs=1e-6)
    assert len({a, c}) == 2  # they depend on what is asked
    assert [v.preference for v in second] == pytest.approx([a, b, c], abs=1e-6)


def test_expected_ratings(judge: JudgeEngine) -> None:
    results = PointwiseJudge(judge, config(JudgeReading.choice, JudgeMode.pointwise)).rate(
        [Question("2+2=", "4"), Question("2+2=", "a long answer that is wrong")]
    )
    assert [r.status for r in results] == [Status.OK] * 2
    assert all(0 < r.score < 1 for r in results)


def test_a_judge_that_says_nothing_readable_gives_statuses(judge: JudgeEngine) -> None:
    verdicts = PairwiseJudge(judge, config()).compare(PAIRS)
    assert [(v.preference, v.status) for v in verdicts] == [(None, Status.UNPARSABLE)] * 3
    assert all(len(v.info["said"]) == 2 for v in verdicts)
    [result] = PointwiseJudge(judge, config(mode=JudgeMode.pointwise)).rate([Question("2+2=", "4")])
    assert result.status is Status.UNPARSABLE
    assert result.info["said"]["quality"]


def test_what_does_not_fit_or_is_late_has_a_status_of_its_own(judge: JudgeEngine) -> None:
    long, short = judge.complete(["x" * 3000, "y"], 4)
    assert (long.status, short.status) == (Status.ERROR, Status.OK)
    assert "max_model_len" in long.error
    held, judge.config.deadline_s = judge.config.deadline_s, 0.05
    try:
        [late] = judge.complete(["z"], 2000, temperature=1.0)
    finally:
        judge.config.deadline_s = held
    assert late.status is Status.TIMEOUT
    assert judge.complete(["y"], 4)[0].text == short.text  # and the engine goes on


def test_a_choice_of_two_tokens_is_refused(judge: JudgeEngine) -> None:
    with pytest.raises(JudgeError, match=r"'10' is 2 tokens.*reward\.judge\.scale"):
        judge.complete(["p"], 1, choices=("1", "10"))


def test_as_a_reward(judge: JudgeEngine) -> None:
    from rlcore.rewards.scorers import JudgeScorer

    scorer = JudgeScorer(judge, config(JudgeReading.choice))
    futures = [scorer.submit(group_of(["4", "5", "four"])) for _ in range(3)]
    for future in futures:
        scores = [r.score for r in future.result(120)]
        assert sum(scores) == pytest.approx(1.5)  # win rates of three: each comparison gives 1 away
        assert len(set(scores)) == 3
    scorer.close()


@pytest.mark.slow  # by default test_world.py and test_end_to_end.py restart engines
def test_an_engine_that_is_killed_is_started_again(judge: JudgeEngine) -> None:
    before = judge.complete(["A or B: "], 1, choices=("A", "B"))
    pid = judge.group.infos[0].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    again = judge.complete(["A or B: "], 1, choices=("A", "B"))
    assert again[0].logprobs == pytest.approx(before[0].logprobs, abs=1e-5)
    assert judge.group.infos[0].pid not in (pid, None)


def test_a_judge_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"reward\.judge\.engine\.path"):
        start_judge(None, JudgeEngineConfig(), "cpu")  # type: ignore[arg-type]
