"""Which files a path means: splits, globs, lists, and what is no data."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.data.sources.config import SourceKind
from rlcore.data.sources.files import DataError, find, labels, split_of


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    return root


def found(root: Path, given=None, kind: SourceKind = SourceKind.file, **options) -> list[str]:
    files = find(kind, str(root) if given is None else given, options.pop("key", "data.train"), **options)
    return [file.relative_to(root).as_posix() for file in files]


HUB = ("README.md", ".gitattributes", "dataset_infos.json", "data/.cache/x.parquet", "_SUCCESS", "LICENSE")


@pytest.mark.parametrize(
    ("names", "train", "held"),
    [
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"],
         2, 1),
        (["train.jsonl", "validation.jsonl"], 1, 1),
        (["train/0.csv", "train/1.csv", "test/0.csv"], 2, 1),
        (["default/train/0000.parquet", "default/test/0000.parquet"], 1, 1),
        (["gsm8k_train.jsonl.gz", "gsm8k_test.jsonl.gz"], 1, 1),
        (["train_sft-00000-of-00001-a3ecf927.parquet", "test_sft-00000-of-00001-f7dfac4a.parquet"], 1, 1),
        (["year=2023/train-0.parquet", "year=2024/train-0.parquet", "year=2024/dev-0.parquet"], 2, 1),
    ],
)  # fmt: skip
def test_a_folder_with_splits_gives_the_rows_of_one(tmp_path, names, train, held):
    make(tmp_path, *names, *HUB)
    for_train, for_eval = found(tmp_path), found(tmp_path, key="data.eval", for_eval=True)
    assert (len(for_train), len(for_eval)) == (train, held)
    assert all("train" in name for name in for_train)
    assert not any("train" in name for name in for_eval)


def test_a_folder_without_splits_is_read_whole(tmp_path):
    make(tmp_path, "a-00000-of-00002.parquet", "a-00001-of-00002.parquet", *HUB)
    assert len(found(tmp_path, kind=SourceKind.parquet)) == 2
    make(tmp_path / "only", "test-00000-of-00001.parquet")
    assert found(tmp_path / "only") == ["test-00000-of-00001.parquet"]


def test_a_split_is_chosen_by_name(tmp_path):
    make(tmp_path, "train.jsonl", "dev.jsonl", "test.jsonl")
    assert found(tmp_path, split="validation") == ["dev.jsonl"] == found(tmp_path, split="dev")
    with pytest.raises(DataError, match=r"data.eval=.* has the splits test, train, validation: choose one, for example "
                                        r"data.eval_split=validation"):  # fmt: skip
        found(tmp_path, key="data.eval", for_eval=True)
    with pytest.raises(DataError, match=r"data.train_split=tset: .* no such split; .* Did you mean test\?"):
        found(tmp_path, split="tset")
    with pytest.raises(DataError, match=r"rounds.sources.a.split=x: "):
        found(tmp_path, split="x", key="rounds.sources.a.path")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train_sft-00000-of-00001.parquet", "train_gen-00000-of-00001.parquet"],
         "has the splits train_gen, train_sft: choose one, for example data.train_split="),
        (["train.jsonl", "more.jsonl"], "has the splits train, and files without a split in their names"),
        (["train.jsonl", "train.parquet"], "files of several formats, as train.jsonl and train.parquet"),
        (["a.csv", "sub/b.jsonl"], "files of several formats, as a.csv and sub/b.jsonl"),
        (["a.jsonl", "a.jsonl.gz"], "holds a.jsonl and a.jsonl.gz: one of them is a copy"),
        (["main/train.parquet", "socratic/train.parquet"], "files in several folders: main, socratic. Name one"),
        (["README.md", ".hidden.jsonl"], "the folder has no data file; it has .hidden.jsonl, README.md"),
    ],
)  # fmt: skip
def test_a_folder_that_is_not_one_data_set_is_an_error(tmp_path, names, message):
    make(tmp_path, *names)
    with pytest.raises(DataError) as caught:
        found(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).startswith("data.train")


def test_globs_and_lists(tmp_path):
    make(tmp_path, "a-train-1.jsonl", "a-train-2.jsonl", "a-test-1.jsonl", "b/train.jsonl", "README.md")
    assert found(tmp_path, f"{tmp_path}/*-train-*") == ["a-train-1.jsonl", "a-train-2.jsonl"]
    assert found(tmp_path, f"{tmp_path}/*.jsonl") == ["a-train-1.jsonl", "a-train-2.jsonl"]  # one split of two
    assert found(tmp_path, f"{tmp_path}/**/*train*") == ["a-train-1.jsonl", "a-train-2.jsonl", "b/train.jsonl"]
    both = [f"{tmp_path}/a-test-1.jsonl", f"{tmp_path}/b"]
    assert found(tmp_path, both) == ["a-test-1.jsonl", "b/train.jsonl"]  # named one by one: all of them
    for wrong, message in [
        (f"{tmp_path}/*.parquet", "no data file matches"),
        ([both[0], both[0]], "a-test-1.jsonl twice"),
        ([], r"must be a path or a list of paths, not \[\]"),
        ([1], r"must be a path or a list of paths, not \[1\]"),
        (f"{tmp_path}/README.md", "unknown file extension"),
    ]:
        with pytest.raises(DataError, match=message):
            found(tmp_path, wrong)


def test_a_saved_dataset_is_told_from_a_folder_of_files(tmp_path):
    make(tmp_path / "saved", "state.json", "data-00000-of-00001.arrow")
    assert found(tmp_path, f"{tmp_path}/saved") == ["saved"]
    with pytest.raises(DataError, match=r"saved was written by datasets.save_to_disk: set source=dataset"):
        found(tmp_path, f"{tmp_path}/saved", kind=SourceKind.parquet)


def test_labels_are_short_and_unique():
    assert labels([Path("/d/train.jsonl.gz")]) == ["train"]
    assert labels([Path("/d/a/0.parquet"), Path("/d/b/0.parquet")]) == ["a/0", "b/0"]


def test_a_word_that_holds_the_name_of_a_split_tells_none():
    assert [split_of(Path(p)) for p in ("latest.jsonl", "trainer.jsonl", "webdev.csv", "test1.jsonl")] == [
        "", "", "", "test",
    ]  # fmt: skip
