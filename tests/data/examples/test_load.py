"""Files to records of every kind: what is read from where, and every way a row can be wrong."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlcore.data import tables
from rlcore.data.examples.load import (
    ExampleColumnsConfig,
    ExampleKind,
    ExamplesConfig,
    RowPolicy,
    load_examples,
)
from rlcore.data.sources.config import DataConfig, SourceKind
from rlcore.data.sources.load import load_data
from rlcore.data.sources.readers import DataError
from rlcore.types import RewardResult
from tests.data.examples.cases import KINDS, load, problem, write


def ids(tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_prompts_are_those_of_the_online_loop_but_for_their_source(tmp_path, tokenizer):
    rows = [{"prompt": f"{i}+1=", "reference": i + 1, "rewards": "math", "level": i} for i in range(5)]
    loaded = load(tmp_path, tokenizer, "prompts", rows)
    config = DataConfig(source=SourceKind.jsonl, train=str(tmp_path / "a.jsonl"), num_eval=0)
    online = load_data(config, tokenizer, seed=0).train
    assert [dataclasses.replace(p, source="") for p in loaded.prompts] == online
    assert {p.source for p in loaded.prompts} == {loaded.name} == {"a"}
    with pytest.raises(TypeError, match="of type Prompt, not Pair"):
        _ = loaded.pairs


def test_a_demonstration(tmp_path, tokenizer):
    rows = [{"prompt": "1+1=", "response": "2", "reference": "2", "uid": "u"}, {"prompt": "x", "response": "y<eos>"}]
    one, two = load(tmp_path, tokenizer, "demonstrations", rows, name="sums", prompt_template="Q: {prompt}").samples
    assert (one.prompt.text, one.prompt.uid, one.prompt.reference, one.prompt.source) == ("Q: 1+1=", "u", "2", "sums")
    assert one.prompt.token_ids == ids(tokenizer, "Q: 1+1=")
    assert (one.sample_id, one.text, one.finish_reason, one.loss_mask) == ("u#0.0", "2", "stop", None)
    assert one.token_ids == (*ids(tokenizer, "2"), tokenizer.eos_token_id)
    assert two.token_ids == (*ids(tokenizer, "y"), tokenizer.eos_token_id)  # never twice
    assert (two.text, two.sample_id) == ("y", "sums-2#0.0")


def test_preferences_with_scores_and_strength(tmp_path, tokenizer):
    row = KINDS["preferences"]
    rows = [
        row,
        {**row, "score_chosen": 8, "score_rejected": 2.5},
        {**row, "score_chosen": 8, "score_rejected": 2, "margin": 3, "model": "m"},
        {**row, "score_chosen": 4, "score_rejected": 4},
    ]
    one, two, three, four = load(tmp_path, tokenizer, "preferences", rows).pairs
    assert (one.prompt.text, one.chosen.text, one.rejected.text) == ("1+1=", "2", "3")
    assert (one.uid, one.strength, one.chosen.reward) == ("a-1#0.0>a-1#0.1", None, None)
    assert one.rejected.token_ids == (*ids(tokenizer, "3"), tokenizer.eos_token_id)
    assert (two.strength, two.chosen.reward, two.rejected.reward) == (5.5, RewardResult(8.0), RewardResult(2.5))
    assert (three.strength, three.prompt.metadata) == (3.0, {"model": "m"})
    assert four.strength == 0.0


def test_labelled_attributes_and_attribute_pairs(tmp_path, tokenizer):
    row = KINDS["labelled"]
    good, bad = load(tmp_path, tokenizer, "labelled", [row, {**row, "label": False}]).samples
    assert (good.reward, bad.reward) == (RewardResult(1.0), RewardResult(0.0))

    rows = [{"prompt": "p", "response": "r", "help": 4, "verbosity": 1.0}, {"prompt": "p", "response": "s", "help": 2}]
    columns = ExampleColumnsConfig(attributes={"helpfulness": "help"})
    changes = {"columns": columns, "attributes": ["helpfulness", "verbosity"]}
    one, two = load(tmp_path, tokenizer, "attributes", rows, **changes).samples
    assert one.reward == RewardResult(2.5, parts={"helpfulness": 4.0, "verbosity": 1.0})
    assert two.reward == RewardResult(2.0, parts={"helpfulness": 2.0})  # not labelled is not 0
    (one, _) = load(tmp_path, tokenizer, "attributes", rows, attribute_weights=[0.5, -0.25], **changes).samples
    assert one.reward.score == 1.75

    row = KINDS["attribute_pairs"]
    rows = [
        row,
        {**row, "preference_strength": 1, "helpfulness_1": 1, "helpfulness_2": 3},
        row | {"preference_strength": 0},
    ]
    loaded = load(tmp_path, tokenizer, "attribute_pairs", rows)
    first, second = loaded.pairs
    assert (first.chosen.text, first.rejected.text, first.strength) == ("2", "3", 2.0)
    assert (second.chosen.text, second.rejected.text, second.strength) == ("3", "2", 1.0)
    assert [s.reward.parts["helpfulness"] for s in (second.chosen, second.rejected)] == [3.0, 1.0]
    assert (loaded.counts["rows"], loaded.counts["records"], loaded.counts["skipped_ties"]) == (3, 2, 1)


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_three_file_kinds_agree_and_records_survive_their_table(tmp_path, tokenizer, kind):
    datasets = pytest.importorskip("datasets")
    rows = [{**KINDS[kind], "prompt": f"{i}+1=", "uid": f"u{i}", "tags": [i]} for i in range(7)]
    write(tmp_path / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    files = (("jsonl", "a.jsonl"), ("parquet", "a.parquet"), ("dataset", "saved"))
    made = [
        load_examples(ExamplesConfig(ExampleKind(kind), SourceKind(s), str(tmp_path / f), name="n"), tokenizer)
        for s, f in files
    ]
    assert made[0] == made[1] == made[2]
    assert len(made[0].records) == 7
    name = {"prompts": "prompts", "preferences": "pairs", "attribute_pairs": "pairs"}.get(kind, "samples")
    table = getattr(tables, f"from_{name}")(made[0].records)
    assert getattr(tables, f"to_{name}")(table) == made[0].records


def test_all_broken_rows_are_counted_and_the_first_few_shown(tmp_path, tokenizer):
    same = {"prompt": "p", "chosen": "x", "rejected": "x"}
    text = problem(tmp_path, tokenizer, "preferences", ["nonsense", *[KINDS["preferences"]] * 3, *[same] * 8])
    head, *lines = text.splitlines()
    assert head.endswith("9 of 12 rows are broken; the first 5:")
    assert [line.split(":")[0].strip() for line in lines] == ["line 1", "line 5", "line 6", "line 7", "line 8"]
    text = problem(tmp_path, tokenizer, "preferences", [same] * 2, broken_rows=RowPolicy.skip)
    assert "no rows are left" in text
    assert "line 1: chosen equals rejected" in text


def test_long_rows_are_skipped_and_counted_or_refused(tmp_path, tokenizer):
    rows = [
        {"prompt": "12345", "response": "1"},
        {"prompt": "1", "response": "1234"},
        {"prompt": "1234", "response": "123"},
    ]
    limits = {"max_prompt_tokens": 4, "max_response_tokens": 4}  # the end token counts
    loaded = load(tmp_path, tokenizer, "demonstrations", rows, **limits)
    assert [s.text for s in loaded.samples] == ["123"]
    counts = loaded.counts
    assert (counts["skipped_long_prompt"], counts["skipped_long_response"]) == (1, 1)
    assert (counts["longest_prompt_tokens"], counts["longest_response_tokens"]) == (4, 4)
    text = problem(tmp_path, tokenizer, "demonstrations", rows, long_rows=RowPolicy.error, **limits)
    assert "line 1: the prompt has 5 tokens, max_prompt_tokens is 4" in text
    assert "line 2: the response has 5 tokens, max_response_tokens is 4" in text
    pair = {"prompt": "1", "chosen": "1", "rejected": "123456"}  # either side counts
    assert "'skipped_long_response': 1" in problem(tmp_path, tokenizer, "preferences", [pair], **limits)


def test_the_counts_add_up(tmp_path, tokenizer):
    row = KINDS["attribute_pairs"]
    rows = [row, row | {"preference_strength": 0}, row | {"response_1": "1" * 99}, row | {"prompt": "1" * 99}]
    rows = [*rows, row | {"response_2": ""}, "nonsense", *[row] * 4]
    changes = {"max_prompt_tokens": 50, "max_response_tokens": 50, "broken_rows": RowPolicy.skip, "limit": 7}
    counts = load(tmp_path, tokenizer, "attribute_pairs", rows, **changes).counts
    skipped = {name.removeprefix("skipped_"): n for name, n in counts.items() if name.startswith("skipped_")}
    assert skipped == {"by_limit": 2, "broken": 2, "ties": 1, "long_prompt": 1, "long_response": 1}
    assert counts["rows"] == 10 == counts["records"] + sum(skipped.values())


def test_settings_that_cannot_go_together_are_all_told(tokenizer):
    config = ExamplesConfig(
        kind=ExampleKind.attributes, source=SourceKind.addition, chat_template=True, prompt_template="x", limit=0,
        max_prompt_tokens=0, max_response_tokens=0, attributes=["a", "a"], attribute_weights=[1.0],
        columns=ExampleColumnsConfig(attributes={"b": "c"}),
    )  # fmt: skip
    with pytest.raises(DataError) as caught:
        load_examples(config, tokenizer, "data.sources.x")
    lines = str(caught.value).splitlines()
    assert sum(line.strip().startswith("data.sources.x.") for line in lines) == 10
    with pytest.raises(DataError, match=r"x.system_prompt needs x.chat_template=true"):
        load_examples(ExamplesConfig(path="a", system_prompt="s"), tokenizer, "x")
    with pytest.raises(DataError, match=r"examples.path=nowhere.jsonl: no such file"):
        load_examples(ExamplesConfig(path="nowhere.jsonl"), tokenizer)


def test_tools_and_template_arguments_reach_demonstrations_too(tmp_path, tokenizer):
    (tmp_path / "chat.jinja").write_text(
        "{% for t in tools or [] %}[{{ t.name }}]{% endfor %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}{{ '' if thinking else '' }}"
    )
    rows = [{"prompt": "1+1", "response": "2", "tools": '[{"name": "add"}]'}, {"prompt": "2+2", "response": "4"}]
    changes = {"chat_template": True, "chat_template_file": f"{tmp_path}/chat.jinja"}
    one, other = load(tmp_path, tokenizer, "demonstrations", rows, **changes, chat_options={"thinking": False}).samples
    assert one.prompt.text == "[add]<user>1+1<assistant>"
    assert other.prompt.text == "<user>2+2<assistant>"
    with pytest.raises(DataError, match=r"chat_options.thinkng: .* Did you mean thinking\?"):
        load(tmp_path, tokenizer, "demonstrations", rows, **changes, chat_options={"thinkng": False})


def test_only_the_train_split_of_a_folder_is_read(tmp_path, tokenizer):
    for split, num in (("train", 2), ("test", 3)):
        write(tmp_path / f"{split}.jsonl", [{"prompt": f"{i}", "response": "x"} for i in range(num)])
    config = ExamplesConfig(path=str(tmp_path), name="math")
    assert [s.prompt.uid for s in load_examples(config, tokenizer).samples] == ["math-1", "math-2"]
    assert len(load_examples(dataclasses.replace(config, split="test"), tokenizer).samples) == 3
