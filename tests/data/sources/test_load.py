"""Files to prompts, and every way a file can be wrong."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from rlcore.data.examples.config import ExampleKind, ExamplesConfig
from rlcore.data.examples.load import load_examples
from rlcore.data.sources.config import ColumnsConfig, DataConfig, LongPrompt, SourceKind
from rlcore.data.sources.load import load_data
from rlcore.data.sources.readers import DataError

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def chat_tokenizer(tokenizer):
    copy = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>", pad_token="<pad>")
    copy.chat_template = TEMPLATE
    return copy


def write(path: Path, rows: list) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def jsonl(path: str, **changes) -> DataConfig:
    return DataConfig(**{"source": SourceKind.jsonl, "train": path, "num_eval": 0, **changes})


def problem(tmp_path: Path, tokenizer, rows: list, **changes) -> str:
    with pytest.raises(DataError) as caught:
        load_data(jsonl(write(tmp_path / "train.jsonl", rows), **changes), tokenizer, seed=0)
    return str(caught.value)


GOOD = {"prompt": "1+1=", "reference": "2"}


def test_a_row_becomes_a_prompt(tmp_path, tokenizer):
    rows = [
        {"prompt": "1+1=", "reference": 2, "rewards": "math", "uid": "one", "level": 3, "tests": {"type": "stdin"}},
        {"prompt": "x é\n", "reference": None, "rewards": ["math", "format"], "uid": 7},
        {"prompt": "2+2=", "reference": 0.5, "rewards": None, "uid": None},
    ]
    data = load_data(jsonl(write(tmp_path / "train.jsonl", rows)), tokenizer, seed=0)
    one, two, three = data.train
    assert (one.uid, one.text, one.reference, one.rewards) == ("one", "1+1=", "2", ("math",))
    assert one.metadata == {"level": 3, "tests": {"type": "stdin"}}
    assert one.token_ids == tuple(tokenizer("1+1=")["input_ids"])
    assert (two.uid, two.text, two.reference, two.rewards) == ("7", "x é\n", None, ("math", "format"))
    assert tokenizer.decode(two.token_ids) == "x é\n"
    assert (three.uid, three.reference, three.rewards) == ("train-3", "0.5", ())
    assert data.eval == []
    assert data.counts["rows"] == 3
    assert data.counts["without_reference"] == 1


def test_columns_of_other_names_and_none(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", [{"question": "q", "answer": "a", "uid": "same"}] * 2)
    columns = ColumnsConfig(prompt="question", reference="", uid="")
    data = load_data(jsonl(path, columns=columns), tokenizer, seed=0)
    assert [(p.uid, p.reference, p.metadata) for p in data.train] == [
        ("a-1", None, {"answer": "a", "uid": "same"}),
        ("a-2", None, {"answer": "a", "uid": "same"}),
    ]


def test_the_three_file_kinds_agree(tmp_path, tokenizer):
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": f"{i}+1=", "reference": str(i + 1), "uid": f"u{i}", "tags": [i, i]} for i in range(20)]
    write(tmp_path / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved", num_shards=3)
    loaded = [
        load_data(DataConfig(source=kind, train=str(tmp_path / name), num_eval=5), tokenizer, seed=0)
        for kind, name in [
            (SourceKind.jsonl, "a.jsonl"),
            (SourceKind.parquet, "a.parquet"),
            (SourceKind.dataset, "saved"),
        ]
    ]
    assert loaded[0] == loaded[1] == loaded[2]
    assert len(loaded[0].train) == 15


def test_messages_from_parquet_lose_their_null_keys(tmp_path, chat_tokenizer):
    rows = [
        {"prompt": [{"role": "user", "content": "hi", "name": None}], "reference": "a"},
        {"prompt": [{"role": "user", "content": "yo", "name": "Bo"}], "reference": "a"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    config = DataConfig(source=SourceKind.parquet, train=str(tmp_path / "a.parquet"), num_eval=0, chat_template=True)
    assert [p.text for p in load_data(config, chat_tokenizer, seed=0).train] == [
        "<user>hi<assistant>",
        "<user>yo<assistant>",
    ]
    assert load_data(config, chat_tokenizer, seed=0).train[0].uid == "a-0"  # rows of a table count from 0


def test_what_was_asked_is_kept_beside_what_the_chat_template_made_of_it(tmp_path, chat_tokenizer):
    """Whoever shows a prompt to a model again, to evolve it or to judge a response, must not nest templates."""
    user, model = {"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}
    rows = [
        {"prompt": "1+1", "level": 3, "uid": "text"},
        {"prompt": [{"role": "system", "content": "be short"}, user], "level": 3, "uid": "messages"},
        {"prompt": [user, model, user], "level": 3, "uid": "turns"},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    config = jsonl(path, chat_template=True, prompt_template="{prompt}?", max_prompt_tokens=200)
    found = {p.uid: p for p in load_data(config, chat_tokenizer, seed=0).train}
    assert found["text"].text == "<user>1+1?<assistant>"
    assert found["text"].metadata == {"level": 3, "raw_prompt": "1+1?"}
    assert found["messages"].metadata == {"level": 3, "raw_prompt": "2+2?"}
    assert found["turns"].metadata == {"level": 3}
    own = write(tmp_path / "b.jsonl", [{"prompt": "1+1", "raw_prompt": "mine"}])
    (one,) = load_data(dataclasses.replace(config, train=str(own)), chat_tokenizer, seed=0).train
    assert one.metadata == {"raw_prompt": "mine"}
    (one,) = load_data(jsonl(write(tmp_path / "c.jsonl", rows[:1])), chat_tokenizer, seed=0).train
    assert one.metadata == {"level": 3}  # without a template the text is what was asked


def test_templates(tmp_path, chat_tokenizer):
    conversation = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [
        {"prompt": "q", "reference": ""},
        {"prompt": [*conversation, {"role": "user", "content": "c"}], "reference": ""},
        {"prompt": [{"role": "system", "content": "mine"}, {"role": "user", "content": "d"}], "reference": ""},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    config = jsonl(path, chat_template=True, system_prompt="sys", prompt_template="{prompt} \\boxed{}")
    data = load_data(dataclasses.replace(config, max_prompt_tokens=100), chat_tokenizer, seed=0)
    assert [p.text for p in data.train] == [
        "<system>sys<user>q \\boxed{}<assistant>",
        "<system>sys<user>a<assistant>b<user>c \\boxed{}<assistant>",
        "<system>mine<user>d \\boxed{}<assistant>",
    ]
    plain = load_data(jsonl(write(tmp_path / "b.jsonl", rows[:1]), prompt_template="Q: {prompt}\n"), chat_tokenizer, 0)
    assert plain.train[0].text == "Q: q\n"


class Wrapping:
    """A tokenizer that puts tokens around what it is given."""

    chat_template = None

    def __init__(self, start: list[int], end: list[int], bos_token_id: int, eos_token_id: int) -> None:
        self.start, self.end, self.bos_token_id, self.eos_token_id = start, end, bos_token_id, eos_token_id

    def __call__(self, text, *, add_special_tokens=True):
        around = (self.start, self.end) if add_special_tokens else ([], [])
        return {"input_ids": [[*around[0], *t.encode(), *around[1]] for t in text]}


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (Wrapping([300], [], 300, 301), (300, 97)),
        (Wrapping([], [301], 300, 301), (97,)),  # a prompt must not end in an end token
        (Wrapping([300], [301], 300, 301), (300, 97)),
        (Wrapping([300], [], 300, 300), (300, 97)),  # one token for both
    ],
)
def test_special_tokens_around_a_prompt(tmp_path, tokenizer, expected):
    data = load_data(jsonl(write(tmp_path / "a.jsonl", [{"prompt": "a"}])), tokenizer, seed=0)
    assert data.train[0].token_ids == expected


@pytest.mark.parametrize("chat", [True, False])
def test_a_prompt_begins_with_one_start_token(tmp_path, tokenizer, chat):
    """The chat template writes the start token, and the tokenizer adds one to plain text."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.add_special_tokens(["<bos>"])
    start = backend.token_to_id("<bos>")
    backend.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", start)])
    wrapping = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>")
    wrapping.chat_template = "{{ bos_token }}" + TEMPLATE
    assert wrapping("1+1=")["input_ids"][0] == start
    data = load_data(jsonl(write(tmp_path / "a.jsonl", [GOOD]), chat_template=chat), wrapping, seed=0)
    assert data.train[0].token_ids[0] == start
    assert data.train[0].token_ids.count(start) == 1
    kind = ExampleKind.demonstrations
    rows = write(tmp_path / "b.jsonl", [{"prompt": "1+1=", "response": "2"}])
    (sample,) = load_examples(ExamplesConfig(kind, path=rows, chat_template=chat), wrapping).samples
    assert sample.prompt.token_ids == data.train[0].token_ids
    assert start not in sample.token_ids


def test_long_prompts_are_skipped_and_counted_or_refused(tmp_path, tokenizer):
    rows = [GOOD, {"prompt": "123456", "reference": "x"}, {"prompt": "1234", "reference": "x"}]
    path = write(tmp_path / "train.jsonl", rows)
    data = load_data(jsonl(path, max_prompt_tokens=4), tokenizer, seed=0)
    assert [p.text for p in data.train] == ["1+1=", "1234"]
    assert (data.counts["rows"], data.counts["skipped_too_long"], data.counts["longest_prompt_tokens"]) == (3, 1, 4)
    text = problem(tmp_path, tokenizer, rows, max_prompt_tokens=4, long_prompts=LongPrompt.error)
    assert "1 of 3 rows are broken" in text
    assert "line 2: 6 tokens, data.max_prompt_tokens is 4" in text
    assert "nothing to train on" in problem(tmp_path, tokenizer, rows, max_prompt_tokens=2)


def test_hold_out_is_seeded_disjoint_and_keeps_copies_together(tmp_path, tokenizer):
    rows = [{"prompt": f"{i % 40}?", "reference": "x"} for i in range(60)]  # 0 to 19 occur twice
    path = write(tmp_path / "train.jsonl", rows)
    one, same, other = (load_data(jsonl(path, num_eval=20), tokenizer, seed=s) for s in (1, 1, 2))
    assert one == same
    assert {p.uid for p in one.eval} != {p.uid for p in other.eval}
    assert len({p.text for p in one.eval}) == 20
    assert {p.text for p in one.eval}.isdisjoint(p.text for p in one.train)
    counts = one.counts
    assert counts["skipped_seen_in_eval"] > 0
    assert counts["rows"] == 60 == counts["train"] + counts["eval"] + counts["skipped_seen_in_eval"]


def test_an_eval_file(tmp_path, tokenizer):
    path = write(tmp_path / "train.jsonl", [GOOD, {"prompt": "3+3=", "reference": "6"}])
    (tmp_path / "other").mkdir()
    held = write(tmp_path / "other" / "train.jsonl", [GOOD])
    data = load_data(jsonl(path, eval=held, num_eval=500), tokenizer, seed=0)
    assert [p.uid for p in data.train] == ["train-1", "train-2"]
    assert [p.uid for p in data.eval] == ["eval-train-1"]  # two files of one name do not share uids
    assert (data.counts["rows"], data.counts["also_in_eval"]) == (3, 1)


def test_several_eval_sets(tmp_path, tokenizer):
    path = write(tmp_path / "train.jsonl", [{"prompt": "3+3=", "reference": "6"}])
    sets = {}
    for name in ("sums", "products"):
        (tmp_path / name).mkdir()
        sets[name] = write(tmp_path / name / "test.jsonl", [GOOD, {"prompt": f"{name}?", "reference": "6"}])
    data = load_data(jsonl(path, eval=sets), tokenizer, seed=0)
    assert [p.source for p in data.train] == [""]
    assert [(p.source, p.uid) for p in data.eval] == [(name, f"{name}-test-{row}") for name in sets for row in (1, 2)]
    with pytest.raises(DataError, match=r"data\.eval\.more is data\.train"):
        load_data(jsonl(path, eval=sets | {"more": path}), tokenizer, seed=0)
    with pytest.raises(DataError, match=r"data\.eval\.more.*no such"):
        load_data(jsonl(path, eval=sets | {"more": str(tmp_path / "none.jsonl")}), tokenizer, seed=0)
    with pytest.raises(DataError, match=r"a set cannot be called 'all'.*rename it"):
        load_data(jsonl(path, eval={"all": sets["sums"]}), tokenizer, seed=0)
    named = write(tmp_path / "named.jsonl", [{**GOOD, "uid": "a"}])
    copy = write(tmp_path / "copy.jsonl", [{**GOOD, "uid": "a"}])
    with pytest.raises(DataError, match=r"1 uids are in .* two of its sets, as 'a'"):
        load_data(jsonl(path, eval={"one": named, "two": copy}), tokenizer, seed=0)


def test_eval_errors(tmp_path, tokenizer):
    path = write(tmp_path / "train.jsonl", [{**GOOD, "uid": 1}, {"prompt": "b", "reference": "x", "uid": 2}])
    held = write(tmp_path / "test.jsonl", [{**GOOD, "uid": 2}])
    with pytest.raises(DataError, match=r"1 uids are in data.train and in data.eval, .* as '2'.*data.columns.uid=''"):
        load_data(jsonl(path, eval=held), tokenizer, seed=0)
    with pytest.raises(DataError, match=r"data.eval is data.train"):
        load_data(jsonl(path, eval=path), tokenizer, seed=0)
    with pytest.raises(DataError, match=r"data.num_eval=2 rows cannot be held out of 2 different prompts"):
        load_data(jsonl(path, num_eval=2), tokenizer, seed=0)
    with pytest.raises(DataError, match=r"data.num_eval=-1 is negative"):
        load_data(jsonl(path, num_eval=-1), tokenizer, seed=0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (r'{"prompt": "a\ud83d"}', r"line 2: a lone surrogate, which is not valid text: "),
        ('{"prompt": "a" "b"}', r"line 2: not JSON \(Expecting ',' delimiter.*\): \{\"prompt\": \"a\" \"b\"\}"),
        ("[1]", r"line 2: expected a JSON object, got a list: \[1\]"),
        ({"reference": "a"}, r"line 2: no column 'prompt'; the row has reference"),
        ({"prompt": "  \n"}, "line 2: prompt is empty"),
        ({"prompt": []}, "line 2: prompt is empty"),
        ({"prompt": None}, r"line 2: prompt must be text or a list of messages, not None \(NoneType\)"),
        ({"prompt": 5}, r"line 2: prompt must be text or a list of messages, not 5 \(int\)"),
        ({"prompt": ["hi"]}, r"line 2: prompt holds 'hi' \(str\); a message is"),
        ({"prompt": [{"role": "user"}]}, r"line 2: prompt holds \{'role': 'user'\} \(dict\); a message is"),
        ({"prompt": [{"role": "user", "content": " "}]}, "line 2: prompt is empty"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "line 2: prompt ends with the assistant's message"),
        ({"prompt": [{"role": "user", "content": "x"}]}, "list of messages, which needs data.chat_template=true"),
        ({**GOOD, "reference": {"a": 1}}, r"line 2: reference must be text or a number, not \{'a': 1\} \(dict\)"),
        ({**GOOD, "reference": []}, r"line 2: reference must contain at least one answer .* got \[\] \(list\)"),
        ({**GOOD, "reference": ["a", None]}, r"line 2: reference must contain .* no null, got \['a', None\]"),
        ({**GOOD, "reference": ["a", {}]}, r"line 2: reference must be text or a number, not \{\} \(dict\)"),
        ('{"prompt": "a", "reference": NaN}', "line 2: reference must be text or a number, not nan"),
        ({**GOOD, "rewards": 3}, r"line 2: rewards must be the name of a reward or a list of names, not 3 \(int\)"),
        ({**GOOD, "rewards": ["math", ""]}, "line 2: rewards must be the name of a reward"),
        ({**GOOD, "uid": 1.5}, r"line 2: uid must be text or a whole number, not 1.5 \(float\)"),
        ({**GOOD, "uid": "first"}, "line 2: uid 'first' is that of line 1"),
    ],
)
def test_a_broken_row_is_named(tmp_path, tokenizer, row, message):
    text = problem(tmp_path, tokenizer, [{**GOOD, "uid": "first"}, row, {**GOOD, "uid": "last"}])
    assert text.startswith(f"{tmp_path / 'train.jsonl'}: 1 of 3 rows are broken:\n")
    assert re.search(message, text)


def test_all_broken_rows_are_counted_and_the_first_few_shown(tmp_path, tokenizer):
    rows = ["", "nonsense", *([GOOD] * 10), *([{"prompt": ""}] * 7), {"prompt": "123456789", "reference": "x"}]
    text = problem(tmp_path, tokenizer, rows, max_prompt_tokens=5, long_prompts=LongPrompt.error)
    head, *lines = text.splitlines()
    assert head.endswith("9 of 19 rows are broken; the first 5:")  # the blank line is no row
    assert [line.split(":")[0].strip() for line in lines] == ["line 2", "line 13", "line 14", "line 15", "line 16"]


def test_bytes_that_are_no_text(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    with pytest.raises(DataError, match=r"line 2: not JSON \('utf-8' codec can't decode byte 0xff"):
        load_data(jsonl(str(tmp_path / "a.jsonl")), tokenizer, seed=0)


def test_a_byte_order_mark_is_no_error(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert load_data(jsonl(str(tmp_path / "a.jsonl")), tokenizer, seed=0).train[0].text == "1+1="


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"question": "a", "reference": "b"}, {}, "no column 'prompt' .*columns are question, reference. "
         "Did you mean data.columns.prompt=question?"),
        ({"Prompt": "a"}, {}, "Did you mean data.columns.prompt=Prompt?"),
        ({"a": 1, "b": 2}, {}, r"no column 'prompt' \(data.columns.prompt\); the columns are a, b.$"),
        ({"prompt": "a", "answer": "b"}, {}, r"no column 'reference' .*Did you mean data.columns.reference=answer\? "
         r"\(data.columns.reference='' if there is none\)"),
        ({"prompt": "a", "refrence": "b"}, {}, "Did you mean data.columns.reference=refrence?"),
        ({"prompt": "a", "x": "b"}, {"reference": "gold"}, r"no column 'gold' \(data.columns.reference\)"),
        ({"prompt": "a"}, {"uid": "id"}, r"no column 'id' \(data.columns.uid\)"),
        ({"prompt": "a"}, {"rewards": "r"}, r"no column 'r' \(data.columns.rewards\)"),
    ],
)  # fmt: skip
def test_a_column_missing_everywhere_is_told_once(tmp_path, tokenizer, row, columns, message):
    text = problem(tmp_path, tokenizer, [row] * 9, columns=ColumnsConfig(**columns))
    assert re.search(message, text)
    assert "broken" not in text


def test_file_errors(tmp_path, tokenizer):
    write(tmp_path / "train.jsonl", [GOOD])
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "bad.parquet").write_text("no")
    write(tmp_path / "array.jsonl", ["[", '{"prompt": "a"}', "}"])
    write(tmp_path / "object.json", ["{", '"data": [{"prompt": "a"}]', "}"])

    def message(**changes) -> str:
        with pytest.raises(DataError) as caught:
            load_data(jsonl("", **changes), tokenizer, seed=0)
        return str(caught.value)

    assert message(train=None) == "data.source=jsonl needs data.train, the path to read"
    text = message(train=str(tmp_path / "trian.jsonl"))
    assert text.endswith(f"no such file. Did you mean {tmp_path / 'train.jsonl'}?")
    assert "no such file in" in message(train=str(tmp_path / "zzz" / "q"))
    assert "no such file" in message(train=str(tmp_path / "train.jsonl"), eval=str(tmp_path / "none"))
    assert "holds files of several formats, as array.jsonl and bad.parquet" in message(train=str(tmp_path))
    assert message(train=str(tmp_path / "empty.jsonl")).endswith("empty.jsonl is empty: it has no rows")
    assert "starts with '[', but is not a JSON array" in message(train=str(tmp_path / "array.jsonl"))
    assert "is one JSON object with the keys data" in message(train=str(tmp_path / "object.json"))
    assert "bad.parquet is not parquet" in message(train=str(tmp_path / "bad.parquet"), source=SourceKind.parquet)
    assert "not a folder written by datasets.save_to_disk" in message(train=str(tmp_path), source=SourceKind.dataset)


def test_saved_dataset_errors(tmp_path, tokenizer):
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list([GOOD] * 3)
    datasets.DatasetDict(dev=one, test=one).save_to_disk(tmp_path / "both")
    config = DataConfig(source=SourceKind.dataset, train=str(tmp_path / "both"), num_eval=0)
    with pytest.raises(DataError, match=r"both has the splits dev, test: choose one, for example data.train_split=dev"):
        load_data(config, tokenizer, seed=0)
    split = tmp_path / "both" / "test"
    assert len(load_data(dataclasses.replace(config, train=str(split)), tokenizer, seed=0).train) == 3
    next(split.glob("*.arrow")).unlink()
    with pytest.raises(DataError, match="not a complete saved dataset: FileNotFoundError"):
        load_data(dataclasses.replace(config, train=str(split)), tokenizer, seed=0)


def test_settings_that_cannot_go_together(tokenizer, chat_tokenizer):
    for changes, message in [
        ({"chat_template": True}, "the tokenizer has no chat template"),
        ({"system_prompt": "x"}, "data.system_prompt needs data.chat_template=true"),
        ({"prompt_template": "hi"}, r"data.prompt_template='hi' has no \{prompt\}"),
    ]:
        with pytest.raises(DataError, match=message):
            load_data(DataConfig(**changes), tokenizer, seed=0)
    data = load_data(DataConfig(chat_template=True), chat_tokenizer, seed=0)
    assert data.train[0].text.startswith("<user>")


def test_a_conversation_the_template_refuses(tmp_path, chat_tokenizer):
    rows = [{"prompt": [{"role": "tool", "content": "x"}], "reference": "a"}]
    text = problem(tmp_path, chat_tokenizer, rows, chat_template=True)
    assert "line 1: the chat template rejects it: no tools here" in text


def test_a_hundred_thousand_rows_are_read_fast(tmp_path, tokenizer):
    rows = [{"prompt": f"What is {i} plus {i % 7}?", "reference": str(i + i % 7)} for i in range(100_000)]
    path = write(tmp_path / "big.jsonl", rows)
    start = time.process_time()
    data = load_data(jsonl(path, num_eval=500), tokenizer, seed=0)
    assert time.process_time() - start < 25  # about 5 on an idle core
    assert len(data.train) == 99_500


def test_importing_the_data_layer_brings_in_no_heavy_package():
    code = (
        "import sys, rlcore.data.sources.load, rlcore.data.batching.collate, rlcore.data.sources.prompts\n"
        "import rlcore.data.batching.balance\n"
        "heavy = {'ray', 'vllm', 'deepspeed', 'hydra', 'omegaconf', 'wandb', 'transformers', 'datasets', 'pyarrow'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert out.stdout.strip() == "[]"
