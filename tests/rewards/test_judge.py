import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest

from rlcore import metrics
from rlcore.data.batching.collate import collate
from rlcore.rewards.composed import ComposedScorer
from rlcore.rewards.config import Fallback, RewardConfig, RewardTermConfig
from rlcore.rewards.judge.config import (
    JudgeAgainst,
    JudgeConfig,
    JudgeKind,
    JudgeMode,
    JudgeReading,
    RubricConfig,
    check,
)  # fmt: skip
from rlcore.rewards.judge.pairwise import PairwiseJudge, comparison_of, pairs_of, position_bias
from rlcore.rewards.judge.parse import read_choice, read_score, read_verdict
from rlcore.rewards.judge.pointwise import PointwiseJudge
from rlcore.rewards.judge.prompts import Comparison, Question, Reply, ask_pair, ask_score, fill, question_of
from rlcore.rewards.registry import RewardError, failure
from rlcore.rewards.scorers import Batcher, JudgeScorer, RewardModelScorer, ScorerLate, Terms, verifier_config
from rlcore.types import Group, Pair, Prompt, RewardResult, Sample, Status, Trajectory

VERDICT, SCORE = JudgeConfig().reading.verdict, JudgeConfig().reading.score


class Scripted:
    """A completer whose answers a function makes."""

    def __init__(self, answer, seconds=60.0):
        self.answer, self.seconds, self.calls = answer, seconds, []

    def complete(self, prompts, max_tokens, temperature=0.0, choices=()):
        self.calls.append((list(prompts), max_tokens, temperature, tuple(choices)))
        return [r if isinstance(r := self.answer(p), Reply) else Reply(r) for p in prompts]

    def limit_s(self, num_prompts):
        return self.seconds


def longer(talk) -> str:
    """A fair judge: the longer response wins."""
    a, b = sides(talk)
    return "[[C]]" if len(a) == len(b) else f"because\n[[{'A' if len(a) > len(b) else 'B'}]]"


def sides(talk):
    text = talk[0]["content"]
    return tuple(
        text.split(f"[Response {x}]\n")[1].split(f"\n[End of response {x}]")[0] for x in "AB"
    )  # fmt: skip


def group(texts, reference="ref", rewards=(), **metadata) -> Group:
    def sample(k, text):
        return Trajectory(
            uid="u", sample_id=f"u#0.{k}", tokens=np.array([5, 6, 7 + k], np.int32),
            loss_mask=np.array([False, True, True]), rollout_logprobs=np.zeros(3, np.float32),
            versions=np.array([-1, 0, 0], np.int32), num_prompt_tokens=1, finish_reason="stop", text=text,
        )  # fmt: skip

    return Group(Prompt("u", (5,), "2+2=", reference, rewards, metadata), [sample(k, t) for k, t in enumerate(texts)])


def config(**settings) -> JudgeConfig:
    how = settings.pop("how", JudgeReading.text)
    made = JudgeConfig(**settings)
    made.reading.how = how
    return made


# ---- prompts


def test_braces_of_users_survive_and_are_not_filled_again():
    asked = ask_score(Question("{response} {}", r"\boxed{1} {prompt} {x:1}"), RubricConfig(text="{low}"), JudgeConfig())
    assert "[Prompt]\n{response} {}\n[End of prompt]" in asked[0]["content"]
    assert "[Response]\n\\boxed{1} {prompt} {x:1}\n[End" in asked[0]["content"]
    assert "What counts: {low}\n" in asked[0]["content"]
    assert "from 1 to 10" in asked[0]["content"]
    assert fill("{a} {prompt}", {"prompt": "{a}"}) == "{a} {a}"


def test_the_reference_is_shown_where_there_is_one_and_where_the_template_says():
    own = config()
    assert "known to be good" not in ask_pair(Comparison("p", "a", "b"), own)[0]["content"]
    assert "known to be good]\n{r}\n" in ask_pair(Comparison("p", "a", "b", "{r}"), own)[0]["content"]
    own.prompts.pairwise, own.prompts.system = "{response_b}|{reference}|{response_a}", "You judge."
    system, user = ask_pair(Comparison("p", "a", "b", "r"), own)
    assert (system["content"], user["content"]) == ("You judge.", "b|r|a")


def test_the_bare_question_comes_from_a_column():
    own = config()
    prompt = Prompt("u", (1,), "<user>q<end>", metadata={"question": "q"})
    assert question_of(prompt, own) == "<user>q<end>"
    own.prompts.column = "question"
    assert question_of(prompt, own) == "q"


# ---- reading


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[[A]]", 1.0), ("so\n[[B]]", 0.0), ("tie\n**[[C]]**\n\n", 0.5), ("[[B]] no wait\nFinal: [[A]]", 1.0),
        ("[[A]]\nThat is all.", 1.0), ("<think>[[B]]</think>\n[[A]]", 1.0), ("[[A]] [[A]]", 1.0),
        ("[[A]] or [[B]]", None), ("A", None), ("", None), ("<think>[[B]]</think>", None), ("[[D]]", None),
    ],
)  # fmt: skip
def test_verdicts(text, value):
    read = read_verdict(Reply(text), VERDICT)
    assert (read.value if read.ok else None) == value
    if value is None:
        assert read.status is Status.UNPARSABLE
        assert "verdict" in read.error
        assert read.said == text


def test_an_answer_cut_off_has_no_verdict():
    read = read_verdict(Reply("[[A]] at first sight, but", finish_reason="length"), VERDICT)
    assert read.status is Status.UNPARSABLE
    assert "max_new_tokens" in read.error


@pytest.mark.parametrize(("text", "value"), [("[[1]]", 0.0), ("x\n[[10]]", 1.0), ("[[ 5.5 ]]", 0.5), ("[[11]]", None),
                                             ("[[0]]", None), ("7", None), ("[[7/10]]", None)])  # fmt: skip
def test_ratings(text, value):
    read = read_score(Reply(text), SCORE, 1, 10)
    assert (read.value if read.ok else None) == value
    assert read.ok or read.status is Status.UNPARSABLE


def test_choices_are_renormalised():
    logs = tuple(np.log([0.3, 0.1]))
    assert read_choice(Reply(logprobs=logs), (1.0, 0.0)).value == pytest.approx(0.75)
    assert read_choice(Reply(logprobs=(-2.0, float("-inf"))), (1.0, 0.0)).value == 1.0
    assert read_choice(Reply(logprobs=(float("-inf"),) * 2), (1.0, 0.0)).status is Status.UNPARSABLE
    assert read_choice(Reply(logprobs=(-1.0,)), (1.0, 0.0)).status is Status.ERROR
    assert read_choice(Reply(logprobs=(float("nan"), 0.0)), (1.0, 0.0)).status is Status.ERROR


def test_a_failed_reply_passes_its_status_on():
    for read in (read_verdict(Reply(status=Status.TIMEOUT, error="late"), VERDICT),
                 read_choice(Reply(status=Status.TIMEOUT, error="late"), (1.0,))):  # fmt: skip
        assert (read.status, read.error) == (Status.TIMEOUT, "late")


# ---- pairwise


def test_a_fair_judge_names_the_better_in_both_orders():
    judge = PairwiseJudge(Scripted(longer), config())
    verdicts = judge.compare([Comparison("p", "long", "s"), Comparison("p", "s", "long"), Comparison("p", "ab", "cd")])
    assert [v.preference for v in verdicts] == [1.0, 0.0, 0.5]
    assert not any(v.flipped for v in verdicts)


def test_a_judge_that_likes_the_first_place_makes_ties_and_shows_in_the_metrics():
    verdicts = PairwiseJudge(Scripted(lambda talk: "[[A]]"), config()).compare([Comparison("p", "x", "y")] * 4)
    assert [(v.preference, v.flipped) for v in verdicts] == [(0.5, True)] * 4
    shown = metrics.values(position_bias(verdicts))
    assert shown == {"judge/flip_share": 1.0, "judge/tie_share": 1.0, "judge/first_share": 1.0,
                     "judge/failed_share": 0.0}  # fmt: skip


def test_equal_responses_tie_unasked():
    scripted = Scripted(longer)
    assert PairwiseJudge(scripted, config()).compare([Comparison("p", "x", "x")])[0].preference == 0.5
    assert sum(len(prompts) for prompts, *_ in scripted.calls) == 0


def test_one_reminder_then_a_status_never_a_zero():
    def answer(talk):
        return "[[A]]" if len(talk) == 3 and sides(talk)[0] == "x" else "I cannot say {rubric}"

    scripted = Scripted(answer)
    [verdict] = PairwiseJudge(scripted, config()).compare([Comparison("p", "x", "y")])
    assert (verdict.preference, verdict.status) == (None, Status.UNPARSABLE)
    assert verdict.info["said"] == ["[[A]]", "I cannot say {rubric}"]
    assert [len(prompts) for prompts, *_ in scripted.calls] == [2, 2]
    assert scripted.calls[1][0][0][1:] == [
        {"role": "assistant", "content": "I cannot say {rubric}"},
        {"role": "user", "content": "That holds no verdict. Write one line: [[A]], [[B]] or [[C]]."},
    ]
    assert metrics.values(position_bias([verdict]))["judge/failed_share"] == 1.0


def test_choices_average_over_both_orders_and_are_symmetric():
    def answer(talk):
        return Reply("A", logprobs=tuple(np.log([0.9, 0.1] if sides(talk)[0] == "x" else [0.6, 0.4])))

    judge = PairwiseJudge(Scripted(answer), config(how=JudgeReading.choice))
    one, other = judge.compare([Comparison("p", "x", "y"), Comparison("p", "y", "x")])
    assert one.preference == pytest.approx((0.9 + 0.4) / 2)
    assert one.preference + other.preference == pytest.approx(1.0)
    assert one.flipped
    assert other.flipped


def test_preferences_of_pairs():
    prompt = Prompt("u", (1,), "q")
    pair = Pair(prompt, Sample(prompt, "a", "s", (1,)), Sample(prompt, "b", "long", (1,)))
    assert comparison_of(pair, config()) == Comparison("q", "s", "long")
    assert PairwiseJudge(Scripted(longer), config()).preferences([pair]) == [0.0]
    assert PairwiseJudge(Scripted(lambda t: "?"), config()).preferences([pair]) == [None]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8])
def test_pairs_are_all_of_them_and_spread_evenly_when_capped(count):
    every = pairs_of(count, 10**6)
    assert {frozenset(p) for p in every} == {frozenset((i, j)) for i in range(count) for j in range(i)}
    assert len(every) == count * (count - 1) // 2
    if count > 2:
        assert {sum(i in p for p in pairs_of(count, count)) for i in range(count)} == {2}


# ---- pointwise


def test_rubrics_make_parts_and_a_weighted_mean():
    def answer(talk):
        return "[[10]]" if "correct" in talk[0]["content"] else "[[1]]"

    rubrics = [RubricConfig("facts", "correct?", 3.0), RubricConfig("style", "nice?", 1.0)]
    [result] = PointwiseJudge(Scripted(answer), config(rubrics=rubrics)).rate([Question("p", "r")])
    assert (result.score, result.parts) == (0.75, {"facts": 1.0, "style": 0.0})
    one = PointwiseJudge(Scripted(lambda t: "[[5.5]]"), config()).rate([Question("p", "r")])[0]
    assert (one.score, one.parts, one.info["said"]) == (0.5, {}, {"quality": "[[5.5]]"})


def test_a_rubric_that_cannot_be_read_fails_the_sample():
    def answer(talk):
        return Reply(status=Status.TIMEOUT, error="late") if "nice" in talk[0]["content"] else "hm"

    rubrics = [RubricConfig("facts", "correct?"), RubricConfig("style", "nice?")]
    scripted = Scripted(answer)
    [result] = PointwiseJudge(scripted, config(rubrics=rubrics)).rate([Question("p", "r")])
    assert (result.status, result.info["said"]["facts"]) == (Status.TIMEOUT, "hm")
    assert "style: late" in result.info["error"]
    assert [len(p) for p, *_ in scripted.calls] == [2, 1]  # a late judge is not reminded


def test_expected_rating():
    logs = tuple(np.log([0.5, 0.0 + 1e-9, 0.5]))
    own = config(how=JudgeReading.choice)
    own.scale.low, own.scale.high = 1, 3
    scripted = Scripted(lambda t: Reply("1", logprobs=logs))
    assert PointwiseJudge(scripted, own).rate([Question("p", "r")])[0].score == pytest.approx(0.5)
    assert scripted.calls[0][1:] == (1, 0.0, ("1", "2", "3"))


def test_settings_that_cannot_work_are_told_all_at_once():
    assert check(JudgeConfig()) == []
    bad = JudgeConfig(kind=JudgeKind.endpoint, rubrics=[], max_pairs=0)
    bad.reading.verdict, bad.reading.score, bad.scale.low = "(", "x", 10
    bad.endpoint.api_env = "sk-secret-key"
    told = check(bad)
    for part in ("scale", "rubrics", "reading.verdict", "reading.score", "max_pairs", "base_url", "endpoint.model",
                 "NAME of an environment"):  # fmt: skip
        assert sum(part in line for line in told) == 1, part
    assert "sk-secret" not in "".join(told)
    assert "engine.path" in check(JudgeConfig(kind=JudgeKind.engine))[0]


# ---- scorers


def scored(scorer, *groups):
    return [f.result(timeout=30) for f in [scorer.submit(g) for g in groups]]


def test_win_rates_within_a_group():
    scorer = JudgeScorer(Scripted(longer), config(mode=JudgeMode.pairwise))
    [results, alone] = scored(scorer, group(["a", "bbb", "cc"]), group(["x"]))
    assert [r.score for r in results] == [0.0, 1.0, 0.5]
    assert results[0].parts == {"flips": 0.0}
    assert alone[0].status is Status.UNPARSABLE
    assert "two samples" in alone[0].info["error"]
    assert metrics.values(scorer.metrics())["judge/flip_share"] == 0.0
    assert scorer.metrics() == {}
    scorer.close()


def test_against_the_reference():
    scorer = JudgeScorer(Scripted(longer), config(mode=JudgeMode.pairwise, against=JudgeAgainst.reference))
    [results, without] = scored(scorer, group(["a", "bbb", "cccccc"]), group(["x"], reference=None))
    assert [r.score for r in results] == [0.0, 0.5, 1.0]
    assert "no reference" in without[0].info["error"]
    scorer.close()


def test_samples_whose_comparisons_failed_have_a_status():
    def answer(talk):
        return Reply(status=Status.ERROR, error="HTTP 500") if "x" in sides(talk) else longer(talk)

    scorer = JudgeScorer(Scripted(answer), config(mode=JudgeMode.pairwise))
    [results] = scored(scorer, group(["aaa", "x", "bb"]))
    assert [(r.status, r.score) for r in results] == [(Status.OK, 1.0), (Status.ERROR, 0.0), (Status.OK, 0.0)]
    assert "HTTP 500" in results[1].info["error"]
    assert results[0].info["not_judged"] == 1
    scorer.close()


def reward_model(rewards=lambda batch: batch.tokens.sum(1).astype(np.float32)):
    return RewardModelScorer(rewards, 60.0, lambda groups: collate([t for g in groups for t in g.trajectories]))


def test_groups_travel_together_while_a_call_is_under_way():
    begun, go, sizes = threading.Event(), threading.Event(), []

    def call(items):
        begun.set()
        assert go.wait(30)
        sizes.append(len(items))
        return items

    batcher = Batcher("b", call, lambda items: 60.0)
    first = batcher.submit(1)
    assert begun.wait(30)
    rest = [batcher.submit(i) for i in range(5)]
    go.set()
    assert [f.result(30) for f in (first, *rest)] == [1, 0, 1, 2, 3, 4]
    assert sizes[:2] == [1, 5]
    batcher.close()


def test_errors_and_deadlines_reach_every_future():
    def broken(items):
        raise ZeroDivisionError("boom")

    with pytest.raises(ZeroDivisionError, match="boom"):
        Batcher("b", broken, lambda items: 60.0).submit(1).result(30)
    hold = threading.Event()
    late = Batcher("the reward model", lambda items: hold.wait(30) and items, lambda items: 0.2)
    futures = [late.submit(0)]
    time.sleep(0.05)
    futures += [late.submit(i) for i in range(3)]
    for future in futures:
        with pytest.raises(ScorerLate, match="no answer of the reward model after 0 s"):
            future.result(30)
    with pytest.raises(ScorerLate):
        late.submit(9).result(30)
    hold.set()


def test_reward_model_scores_and_refuses_what_is_not_finite():
    scorer = reward_model()
    assert [[r.score for r in rs] for rs in scored(scorer, group(["a", "b"]), group([]))] == [[18.0, 19.0], []]
    bad = reward_model(lambda b: np.array([np.nan, 1.0], np.float32))
    assert [r.status for r in scored(bad, group(["a", "b"]))[0]] == [Status.ERROR, Status.OK]
    with pytest.raises(RewardError, match="shape"):
        scored(reward_model(lambda b: np.zeros((2, 2), np.float32)), group(["a", "b"]))


class Verifiers:
    """Right is "ok"; remembers what it was asked."""

    def __init__(self, results=None):
        self.results, self.rows = results, []

    def submit(self, group):
        self.rows.append(group.prompt.rewards)
        future = Future()
        default = [RewardResult(float(t.text == "ok"), parts={"math": float(t.text == "ok")})
                   for t in group.trajectories]  # fmt: skip
        future.set_result(self.results or default)
        return future


def composed(verifiers, terms=("math",), fallback=Fallback.none, weights=None, judge=None, **settings):
    made = [RewardTermConfig(name, weight=(weights or {}).get(name, 1.0)) for name in terms]
    return ComposedScorer(verifiers, reward_model(), judge, RewardConfig(terms=made, fallback=fallback, **settings))


def test_terms_add_up_with_named_parts():
    scorer = composed(Verifiers(), ("math", "reward_model"), weights={"reward_model": 0.1})
    [[one, two]] = scored(scorer, group(["ok", "no"]))
    assert (one.score, one.parts) == (pytest.approx(2.8), {"math": 1.0, "reward_model": 18.0})
    assert (two.score, two.parts) == (pytest.approx(1.9), {"math": 0.0, "reward_model": 19.0})


def test_one_scorer_alone():
    scorer = composed(Verifiers(), ("math",))
    [[one, two]] = scored(scorer.alone("reward_model"), group(["ok", "no"]))
    assert (one.score, one.parts, two.score) == (18.0, {}, 19.0)
    with pytest.raises(RewardError, match=r"'judge' is to score.*reward\.judge\.kind"):
        scorer.alone("judge")


def test_rows_name_their_scorers():
    verifiers = Verifiers()
    scorer = composed(verifiers, ("math", "reward_model"), weights={"reward_model": 0.1})
    rows = [("math",), ("reward_model",), ("reward_model", "code")]
    only_math, only_model, both = scored(scorer, *[group(["ok"], rewards=r) for r in rows])
    assert [only_math[0].score, only_model[0].score] == [1.0, pytest.approx(1.8)]
    assert both[0].score == pytest.approx(2.8)
    assert verifiers.rows == [("math",), ("code",)]
    judge = scored(scorer, group(["ok"], rewards=("judge",)))[0][0]
    assert (judge.status, judge.score) == (Status.ERROR, 0.0)
    assert "reward.judge.kind" in judge.info["error"]


def test_the_fallback_scores_where_no_verifier_can():
    cannot = failure("no reference", Status.UNPARSABLE)
    scorer = composed(Verifiers([cannot, cannot]), fallback=Fallback.reward_model, fallback_weight=0.5)
    [[one, _]] = scored(scorer, group(["a", "b"]))
    assert (one.ok, one.score, one.parts) == (True, 9.0, {"reward_model": 18.0})
    assert one.info["verifiers"] == {"unverified": "no reference", "fallback": "reward_model"}


def test_what_other_verifiers_gave_stays_in_the_sum():
    part = RewardResult(-0.5, Status.UNPARSABLE, {"length": 0.5}, {"error": "math: no reference"})
    [[result]] = scored(composed(Verifiers([part]), fallback=Fallback.reward_model), group(["a"]))
    assert (result.ok, result.score, result.parts) == (True, 17.5, {"length": 0.5, "reward_model": 18.0})


def test_no_fallback_for_what_a_verifier_can_or_should_have_scored():
    wrong = RewardResult(0.0, parts={"math": 0.0})
    cannot, broke = failure("?", Status.UNPARSABLE), failure("boom")
    for results in ([wrong, wrong], [wrong, cannot], [broke, broke]):
        assert scored(composed(Verifiers(results), fallback=Fallback.reward_model), group(["a", "b"]))[0] == results
    bare = scored(composed(Verifiers([broke]), fallback=Fallback.reward_model), group(["a"], reference=None))[0][0]
    assert (bare.ok, bare.score) == (True, 18.0)


def test_the_judge_as_fallback_and_a_fallback_that_fails_is_a_status():
    judge = JudgeScorer(Scripted(lambda t: "[[10]]" if "good" in t[0]["content"] else "?"), config())
    cannot = failure("no reference", Status.UNPARSABLE)
    scorer = composed(Verifiers([cannot, cannot]), fallback=Fallback.judge, judge=judge)
    [[good, unread]] = scored(scorer, group(["good", "b"], reference=None))
    assert (good.score, good.parts) == (1.0, {"judge": 1.0})
    assert unread.status is Status.UNPARSABLE
    judge.close()


def test_errors_of_a_part_reach_the_composed_future():
    def broken(batch):
        raise OSError("the model died")

    terms = [RewardTermConfig("math"), RewardTermConfig("reward_model")]
    scorer = ComposedScorer(Verifiers(), reward_model(broken), None, RewardConfig(terms=terms))
    with pytest.raises(OSError, match="the model died"):
        scored(scorer, group(["ok"]))


def test_a_config_that_names_what_is_not_there():
    with pytest.raises(RewardError, match=r"'judge'.*reward\.judge\.kind"):
        ComposedScorer(Verifiers(), None, None, RewardConfig(fallback=Fallback.judge))
    with pytest.raises(RewardError, match="'reward_model'"):
        ComposedScorer(Verifiers(), None, None, RewardConfig(terms=[RewardTermConfig("reward_model")]))


def test_verifiers_never_see_reserved_names():
    terms = [RewardTermConfig("judge"), RewardTermConfig("math", weight=2.0)]
    assert verifier_config(RewardConfig(terms=terms)).terms == terms[1:]
    assert verifier_config(RewardConfig(terms=terms[:1])).terms == [RewardTermConfig()]
    split = Terms.of(RewardConfig(terms=terms[:1])).split(Prompt("u", (1,), "q"))
    assert (split.verified, [t.name for t in split.others]) == (None, ["judge"])
    assert Terms.of(RewardConfig(fn="a.py:judge")).verifiers
