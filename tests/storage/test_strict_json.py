from __future__ import annotations

import enum
import json
import math
from pathlib import Path

import numpy as np
import pytest

from rlcore.storage.strict_json import canonical, json_hash, plain, restored


class Color(enum.Enum):
    red = "red"


def test_plain_json_and_back():
    value = {"x": [math.nan, -math.inf, 1.5], "p": Path("a/b"), "e": Color.red, "n": np.float32(0.5), "a": np.arange(2)}
    flat = plain(value)
    assert json.loads(json.dumps(flat, allow_nan=False)) == flat
    back = restored(flat)
    assert math.isnan(back["x"][0])
    assert back["x"][1:] == [-math.inf, 1.5]
    assert (back["p"], back["e"], back["n"], back["a"]) == ("a/b", "red", 0.5, [0, 1])
    assert plain(flat) == flat
    with pytest.raises(TypeError, match=r"value\.a\[1\] is a set"):
        plain({"a": [1, {2}]})
    with pytest.raises(TypeError, match="float"):
        plain({"$float": "x"})


def test_canonical_json_does_not_see_the_order_of_keys():
    assert canonical({"b": 1, "a": (1, 2)}) == canonical({"a": [1, 2], "b": 1}) == '{"a":[1,2],"b":1}'
    assert json_hash({"a": 1}) != json_hash({"a": 1.5})


def test_hash_is_stable():
    """Artefacts of earlier versions must be found: a change here needs a new SCHEMA."""
    found = json_hash({"b": [1, 2.5, None, "ü"], "a": math.inf})
    assert found == "94802120b5b64eac587d14d594148fcf592b00682f366197e3bd9fec30b1f7ad"
