"""Conversion of values to strict JSON and back, and their hash."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

FLOAT = "$float"  # JSON has neither NaN nor infinities


def plain(value: Any, where: str = "value", exact: bool = False) -> Any:
    """`value` as strict JSON types; NaN and infinities become `{"$float": "nan"}`.

    Args:
        exact: `restored` must return equal keys, so integer keys and values that look encoded are errors.

    Raises:
        TypeError: a value that JSON cannot represent, with its path.
    """
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        if not exact and set(value) == {FLOAT} and value[FLOAT] in ("nan", "inf", "-inf"):
            return dict(value)  # already plain
        if bad := [key for key in value if not isinstance(key, str if exact else str | int) or key == FLOAT]:
            raise TypeError(f"{where} has the key {bad[0]!r}: keys must be strings other than {FLOAT!r}")
        return {str(key): plain(item, f"{where}.{key}", exact) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{i}]", exact) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: str(value)}
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot represent")


def restored(value: Any) -> Any:
    """The inverse of `plain`, including NaN and infinities."""
    if isinstance(value, dict):
        return float(value[FLOAT]) if value.keys() == {FLOAT} else {key: restored(item) for key, item in value.items()}
    return [restored(item) for item in value] if isinstance(value, list) else value


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def json_hash(value: Any) -> str:
    """sha256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()
