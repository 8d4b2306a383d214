"""Encoding of values across the sandbox border: exact built-in types as JSON, safe to decode.

    None, bool, str, int, float                 themselves, but for very long integers and non-finite floats
    list                                        a JSON array
    tuple, set, frozenset, dict, bytes, ...     {"tag": content}, see `_TAGS`
    an instance of a class both sides know      {"o": [class name, {attribute: value}]}
    anything else                               {"h": number, "type": name}: it stays; the number identifies it

This module is also loaded inside the sandbox: it imports only the standard library.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

HEADER = struct.Struct("!I")
MAX_FRAME = 8 << 20  # limit of a program's message; see Job.answer_bytes
MAX_KEYS = 1000  # larger sets and dicts have their keys checked
MAX_LONG = 1 << 16  # maximum hexadecimal digits of a fraction
MAX_DEPTH = 200
MAX_INT_BITS = 8192  # longer integers are sent in hexadecimal, which converts in linear time

Keep = Callable[[Any], int]


class ValueRefused(ValueError):
    """The data is not an encoded value."""


def encode(value: Any, keep: Keep | None = None, classes: Mapping[str, type] | None = None, depth: int = 0) -> Any:
    """Encodes a value for `json.dumps`; subclasses of built-in containers become their base.

    Args:
        keep: assigns a number to an object that cannot be encoded; None: such an object is an error.
        classes: classes known to both sides, by name.

    Raises:
        ValueRefused: too deep, or an object that cannot be encoded.
    """
    if depth > MAX_DEPTH:
        raise ValueRefused("a value nested too deeply")
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if isinstance(value, int):
        if kind is not int:
            value = bool(value) if kind is bool else int.__int__(value)
        return value if value.bit_length() <= MAX_INT_BITS else {"i": hex(value)}
    if isinstance(value, float):
        value = float.__float__(value)
        return value if math.isfinite(value) else {"f": repr(value)}
    if isinstance(value, str):
        return str.__str__(value)

    def each(items: Any) -> list[Any]:
        return [encode(item, keep, classes, depth + 1) for item in items]

    if isinstance(value, list):
        return each(list.__iter__(value))
    if isinstance(value, dict):
        return {"d": [each(pair) for pair in dict.items(value)]}
    base: Any
    for base, tag in ((tuple, "t"), (set, "s"), (frozenset, "z")):
        if isinstance(value, base):
            return {tag: each(base.__iter__(value))}
    simple = _simple(value)
    if simple is not None:
        return simple
    name = kind.__name__
    if classes and classes.get(name) is kind:
        return {"o": [name, {key: encode(item, keep, classes, depth + 1) for key, item in vars(value).items()}]}
    if callable(getattr(value, "tolist", None)) and kind.__module__.partition(".")[0] == "numpy":
        return encode(value.tolist(), keep, classes, depth + 1)
    if keep is None:
        raise ValueRefused(f"a {name}, which is no plain value")
    return {"h": keep(value), "type": name[:80]}


def _simple(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return {"b": bytes(value).hex()}
    if isinstance(value, complex):
        return {"c": [repr(value.real), repr(value.imag)]}
    if isinstance(value, collections.deque):
        return None
    if isinstance(value, fractions.Fraction):
        return {"q": [hex(value.numerator), hex(value.denominator)]}
    if isinstance(value, decimal.Decimal):
        return {"m": str(value)}
    for kind in _DATES:
        if type(value) is kind:
            return {kind.__name__: value.isoformat()}
    return None


_DATES = (datetime.datetime, datetime.date, datetime.time)


def _integer(text: Any) -> int:
    if not isinstance(text, str) or len(text) > 8 * MAX_FRAME:
        raise ValueRefused("not an integer")
    return int(text, 16)


def _fraction(parts: Any) -> fractions.Fraction:
    if max(map(len, parts)) > MAX_LONG:  # reducing them takes quadratic time
        raise ValueRefused("a fraction too long")
    return fractions.Fraction(_integer(parts[0]), _integer(parts[1]))


def _spread(keys: list[Any]) -> list[Any]:
    """Rejects keys that may be chosen to have equal hashes, which would make a set or dict quadratic."""
    if len(keys) > MAX_KEYS and not all(map(_spreads, keys)):
        raise ValueRefused("keys whose hashes can be chosen")
    return keys


def _spreads(key: Any) -> bool:
    if isinstance(key, tuple):
        return all(map(_spreads, key))
    if isinstance(key, int):
        return -(1 << 60) < key < 1 << 60
    return key is None or isinstance(key, str | bytes | float)


_TAGS: dict[str, Callable[[Any], Any]] = {
    "i": _integer,
    "f": float,
    "b": bytes.fromhex,
    "c": lambda parts: complex(float(parts[0]), float(parts[1])),
    "q": _fraction,
    "m": lambda text: decimal.Decimal(text[:10_000]),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
}
_SETS: dict[str, Callable[[Any], Any]] = {"t": tuple, "s": set, "z": frozenset}


class Opaque:
    """Placeholder of an object on the other side. It equals nothing, not even itself in a list."""

    __slots__ = ("number", "type_name")

    def __init__(self, number: int, type_name: str) -> None:
        self.number, self.type_name = number, type_name

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<an object of class {self.type_name}>"


def decode(
    data: Any, held: Callable[[int, str], Any] = Opaque, classes: Mapping[str, type] | None = None, depth: int = 0
) -> Any:
    """Decodes a value; the encoding may be hostile.

    Args:
        held: creates the placeholder of an object on the other side, from its number and class name.
        classes: classes known to both sides, by name; instances are created without calling `__init__`.

    Raises:
        ValueRefused: invalid encoding.
    """
    if depth > MAX_DEPTH + 5:
        raise ValueRefused("nested too deeply")
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if isinstance(data, list):
        return [decode(item, held, classes, depth + 1) for item in data]
    try:
        if "h" in data:
            return held(int(data["h"]), str(data.get("type", "?"))[:80])
        ((tag, content),) = data.items()
        if tag in _SETS:
            items = [decode(item, held, classes, depth + 1) for item in content]
            return _SETS[tag](items if tag == "t" else _spread(items))
        if tag == "d":
            pairs = [decode(pair, held, classes, depth + 1) for pair in content]
            return dict(zip(_spread([pair[0] for pair in pairs]), [pair[1] for pair in pairs], strict=True))
        if tag == "o":
            kind = (classes or {})[content[0]]
            held_by_class = [getattr(kind, key, None) for key in content[1]]
            if any(callable(found) or isinstance(found, property) for found in held_by_class):
                raise ValueRefused("an attribute in the place of a method")
            made: Any = object.__new__(kind)
            vars(made).update({k: decode(v, held, classes, depth + 1) for k, v in content[1].items()})
            return made
        return _TAGS[tag](content)
    except ValueRefused:
        raise
    except Exception as error:
        raise ValueRefused(f"not the encoding of a value: {type(error).__name__}") from None


def dumps(message: Any) -> bytes:
    """A frame: the length in four bytes, then JSON."""
    payload = json.dumps(message, check_circular=False).encode("utf-8", "surrogatepass")
    return HEADER.pack(len(payload)) + payload


def loads(payload: bytes) -> dict[str, Any]:
    """Decodes the message of a frame, which may be hostile.

    Raises:
        ValueRefused: not a JSON object.
    """
    try:
        message = json.loads(payload.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueRefused(f"not JSON: {type(error).__name__}") from None
    if not isinstance(message, dict):
        raise ValueRefused("not a message")
    return message
