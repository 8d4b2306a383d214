"""Prompts of a parquet file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlcore.data.sources.config import ColumnsConfig, DataConfig, SourceKind
from rlcore.data.sources.load import load_data
from rlcore.data.sources.readers import DataError
from rlcore.types import Prompt


def load(path: Path, rows: list, tokenizer, columns: ColumnsConfig | None = None, **changes) -> list[Prompt]:
    file = path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    config = DataConfig(source=SourceKind.file, train=str(file), num_eval=0, max_prompt_tokens=500, **changes)
    config.columns = columns or ColumnsConfig()
    return load_data(config, tokenizer, seed=0).train


def problem(*args, **changes) -> str:
    with pytest.raises(DataError) as caught:
        load(*args, **changes)
    return str(caught.value)
