import pytest

from actors.config.compose import compose
from actors.config.rounds import plan_rounds

SAMPLES = "sample: {kind: generate}"


def problems(stages: str) -> dict[str, str]:
    return {p.key: p.text for p in plan_rounds(compose([f"+rounds.stages={{{SAMPLES}, {stages}}}"]))[1]}


def test_scores_by_a_model_name_it_and_ask_something() -> None:
    whole = "score: {kind: score, samples: [sample], by: model, model: start}"
    assert problems(whole) == {}
    at = "rounds.stages.score"
    assert list(problems("score: {kind: score, samples: [sample], by: model}")) == [f"{at}.model"]
    broken = "score: {kind: score, samples: [sample], by: model, model: start, question: {template: '{prompt}'}}"
    (found,) = problems(broken).items()
    assert found[0] == f"{at}.question.template"
    assert "{response}" in found[1]
    assert "rounds.stages.score.model" in problems("score: {kind: score, samples: [sample], by: model, model: nobody}")


@pytest.mark.parametrize("by", ["reward", "model"])
def test_rl_is_not_scored_by_the_policy_itself(by: str) -> None:
    found = problems(f"rl: {{kind: rl, by: {by}}}")
    assert list(found) == (["rounds.stages.rl.by"] if by == "model" else [])


def test_sources_may_be_globs_and_lists_and_are_checked_at_launch(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")

    def found(options):
        config = compose([f"+rounds.stages={{{SAMPLES}}}", f"+rounds.sources.x={{kind:preferences,{options}}}"])
        return {p.key: p.text for p in plan_rounds(config)[1]}

    assert found(f"path:'{tmp_path}/*.jsonl'") == {}
    assert found(f"path:['{tmp_path}/a.jsonl','{tmp_path}/b.jsonl']") == {}
    (text,) = found(f"path:['{tmp_path}/a.jsonl','{tmp_path}/c.jsonl']").values()
    assert "c.jsonl" in text
    assert list(found("limit:0")) == ["rounds.sources.x.limit", "rounds.sources.x.path"]


@pytest.mark.parametrize("name", ["all", "heldout", "a/b"])
def test_prompts_of_a_source_cannot_take_the_name_of_a_metric(tmp_path, name):
    for stem in ("all", "other"):
        (tmp_path / f"{stem}.jsonl").write_text("{}\n")

    def found(options):
        config = compose([f"+rounds.stages={{{SAMPLES}}}", f"+rounds.sources.x={{{options}}}"])
        return {p.key: p.text for p in plan_rounds(config)[1]}

    (text,) = found(f"kind:prompts,name:{name},path:'{tmp_path}/other.jsonl'").values()
    assert f"an evaluation set cannot be called {name!r}" in text
    assert list(found(f"kind:prompts,path:'{tmp_path}/all.jsonl'")) == ["rounds.sources.x.name"]
    assert found(f"kind:prompts,name:mine,path:'{tmp_path}/all.jsonl'") == {}
    assert found(f"kind:preferences,path:'{tmp_path}/all.jsonl'") == {}
