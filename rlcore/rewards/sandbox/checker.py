"""Runs the assert statements of a test in a process separate from the program.

Names that neither the test, nor Python, nor a few modules define belong to the program: they are proxies, which query
the program's process through the verifier. Plain values are copied, so that comparisons with a literal happen here, out
of the program's reach. Objects of the program's classes stay in its process. They equal no plain value; the comparison
of two of them is done by their class, checked with decoys, and marks the test as weak. If the program applies an
operator to a plain value of the test, as in `abs(f(x) - 0.5)`, the result is not accepted as a plain value, because the
program could fake it.

The program can call functions that the test passes; they run here. A call that returns None sends back the changes to
lists, dicts, sets and objects of the test's classes in its arguments. An exception of a class of the program is raised
here as a class with that name and the built-in bases that it reports.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from rlcore.rewards.sandbox import values
from rlcore.rewards.sandbox.program import Channel, describe

MODULES = (
    "math", "cmath", "collections", "itertools", "functools", "operator", "re", "string", "heapq", "bisect", "random",
    "statistics", "decimal", "fractions", "datetime", "json", "copy", "typing",
)  # fmt: skip
KNOWN = {
    "Counter": "collections",
    "defaultdict": "collections",
    "OrderedDict": "collections",
    "deque": "collections",
    "isclose": "math",
    "Decimal": "decimal",
    "Fraction": "fractions",
}
DECOY = 0x5EED_0DD5
ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor")
OPPOSITE = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt"}


KINDS = ("function", "type", "method", "builtin_function_or_method", "_lru_cache_wrapper", "partial")


class Link:
    """Connection to the program, through the verifier."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.classes: dict[str, type] = {}
        self.errors: dict[str, type[Exception]] = {}
        self.handed: list[Callable[..., Any]] = []  # functions of the test that the program may call
        self.asked = self.weak = False
        self.told = False  # the program received a plain value of the test, which may be the expected one

    def ask(self, request: dict[str, Any], given: tuple[Any, ...] = ()) -> Any:
        """The value of an answer; `given` are the arguments of the call, which the program may have changed."""
        self.asked = True
        self.channel.send({"ask": request})
        while "call" in (answer := self.channel.receive()):
            self.channel.send({"ask": self._called_back(answer)})
        if "e" in answer:
            raise self.error(str(answer["e"][0]), answer.get("bases", ()))(str(answer["e"][1]))
        result = self.decode(answer["v"])
        if result is None:
            for old, new in zip(given, answer.get("after", ()), strict=False):
                self._overwrite(old, self.decode(new))
        return result

    def decode(self, data: Any) -> Any:
        return values.decode(data, lambda number, name: Remote(self, number, name), self.classes)

    def _called_back(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Answers a call of a test function by the program."""
        self.told = True
        try:
            args = [self.decode(item) for item in asked["args"]]
            return {"back": self.encode(self.handed[asked["call"]](*args))}
        except Exception as error:
            return {"raise": describe(error)}

    def _overwrite(self, old: Any, new: Any) -> None:
        if type(new) is not type(old):
            return
        if type(old) is list:
            old[:] = new
        elif type(old) in (dict, set):
            old.clear()
            old.update(new)
        elif type(old) in self.classes.values():
            vars(old).clear()
            vars(old).update(vars(new))

    def error(self, name: str, bases: Any) -> type[Exception]:
        """The exception class of that name: Python's, or a stand-in for a class of the program."""
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            return kind
        if name not in self.errors:
            found = [getattr(builtins, base, None) for base in bases]
            known = [base for base in found if isinstance(base, type) and issubclass(base, Exception)]
            try:
                self.errors[name] = type(name, (known[0] if known else Exception,), {"__init__": _any_arguments})
            except TypeError:
                self.errors[name] = type(name, (Exception,), {})
        return self.errors[name]

    def encode(self, value: Any) -> Any:
        if type(value) is Remote:
            return {"h": object.__getattribute__(value, "_number")}
        if type(value) is Function:
            return self.encode(self.ask({"name": value.name}))
        if type(value) in (list, tuple):
            parts = [self.encode(item) for item in value]
            return parts if type(value) is list else {"t": parts}
        if isinstance(
            value, types.FunctionType | types.MethodType | types.BuiltinFunctionType | functools.partial | type
        ):
            name = getattr(value, "__name__", "")
            if getattr(builtins, name, None) is value:
                return {"h": -1, "type": name}
            self.handed.append(value)
            return {"h": -1 - len(self.handed), "type": "function"}
        return values.encode(value, None, self.classes)

    def named(self, path: str) -> Any:
        """A name of the program: constants are values; functions, classes and objects are proxies."""
        found = self.ask({"name": path})
        if type(found) is not Remote or (kind := object.__getattribute__(found, "_type")) not in KINDS:
            return found
        if kind == "type" and (bases := self.ask({"exception": self.encode(found)})):
            return self.error(path, bases)
        return Function(self, path)

    def do(self, name: str, *args: Any) -> Any:
        """A function of the module operator or a builtin, applied in the program's process."""
        remote = [a for a in args if type(a) is Remote]
        mixed = name in (*ARITHMETIC, "contains") and len(remote) < len(args)
        self.told = self.told or mixed
        fitted = (name in ARITHMETIC and mixed) or any(map(_is_fitted, remote))
        result = self.ask({"do": name, "args": [self.encode(a) for a in args]})
        return _refuse_plain(result) if fitted and name not in ("eq", "truth") else result

    def call(self, target: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        first = [] if "name" in target else [target]
        named = {"name": target["name"]} if "name" in target else {}
        sent = {key: self.encode(value) for key, value in kwargs.items()}
        changeable = any(type(a) in (list, dict, set, *self.classes.values()) for a in args)
        request = {**named, "args": first + [self.encode(a) for a in args], "kwargs": sent}
        return self.ask({**request, "after": len(args)} if changeable else request, args)


def _any_arguments(self: Exception, *args: Any) -> None:
    self.args = args


def _is_fitted(remote: Any) -> bool:
    return bool(object.__getattribute__(remote, "_fitted"))


def _refuse_plain(result: Any) -> Any:
    if type(result) is not Remote:
        raise TypeError("an object of the program's class, combined with a plain value, gives no plain value")
    object.__setattr__(result, "_fitted", True)
    return result


class Remote:
    """Proxy of an object in the program's process."""

    __slots__ = ("_fitted", "_link", "_number", "_type")

    def __init__(self, link: Link, number: int, type_name: str) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_type", type_name)
        object.__setattr__(self, "_fitted", False)  # result of an operator on a plain value of the test

    def __getattr__(self, name: str) -> Any:
        return self._link.do("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._link.do("setattr", self, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._link.call({"h": self._number}, args, kwargs)
        return _refuse_plain(result) if self._fitted else result

    def __eq__(self, other: object) -> bool:
        if type(other) is not Remote:
            return False
        self._link.weak = True
        return self._link.do("eq", self, other) is True and self._link.do("eq", self, DECOY) is not True

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._number)

    def __bool__(self) -> bool:
        self._link.weak = True
        return self._link.do("truth", self) is True

    def __iter__(self) -> Iterator[Any]:
        if self._link.do("hasattr", self, "__next__") is True:
            return self
        found = self._link.do("list", self)
        return iter(found if type(found) is list else ())

    def __next__(self) -> Any:
        return self._link.do("next", self)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._link.do("setitem", self, key, value)

    def __delitem__(self, key: Any) -> None:
        self._link.do("delitem", self, key)

    def __enter__(self) -> Any:
        return self._link.do("getattr", self, "__enter__")()

    def __exit__(self, *_: object) -> None:  # a true return value would suppress the test's AssertionError
        self._link.do("getattr", self, "__exit__")(None, None, None)

    def __len__(self) -> int:
        return int(self._link.do("len", self))

    def __repr__(self) -> str:
        return str(self._link.do("repr", self))

    def __str__(self) -> str:
        return str(self._link.do("str", self))

    def __contains__(self, item: Any) -> bool:
        self._link.weak = True
        if self._link.do("contains", self, item) is not True:
            return False
        decoy = f"decoy {DECOY}" if isinstance(item, str) else DECOY
        return self._link.do("contains", self, decoy) is not True

    def __instancecheck__(self, value: Any) -> bool:
        self._link.weak = True
        return type(value) is Remote and self._link.do("isinstance", value, self) is True


def _operator(name: str, swapped: bool) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        return self._link.do(name, other, self) if swapped else self._link.do(name, self, other)

    return method


def _ordering(name: str) -> Callable[[Any, Any], bool]:
    def method(self: Any, other: Any) -> bool:
        if type(other) is not Remote:
            raise TypeError(f"an object of the program's class {self._type} is compared with a plain value")
        self._link.weak = True
        return self._link.do(name, self, other) is True and self._link.do(OPPOSITE[name], self, other) is not True

    return method


for _name in ARITHMETIC:
    setattr(Remote, f"__{_name.rstrip('_')}__", _operator(_name, False))
    setattr(Remote, f"__r{_name.rstrip('_')}__", _operator(_name, True))
for _name in ("lt", "le", "gt", "ge"):
    setattr(Remote, f"__{_name}__", _ordering(_name))
setattr(Remote, "__getitem__", _operator("getitem", False))  # noqa: B010
for _name in ("neg", "abs"):
    setattr(Remote, f"__{_name}__", lambda self, name=_name: self._link.do(name, self))


class Function:  # a name of the program; without a docstring here, so that the program's is found
    def __init__(self, link: Link, name: str) -> None:
        self.link, self.name = link, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.link.call({"name": self.name}, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return self.link.named(f"{self.name}.{name}")

    def __getattribute__(self, name: str) -> Any:
        if name == "__doc__":
            return self.link.named(f"{self.name}.{name}")
        return object.__getattribute__(self, name)

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]

    def __instancecheck__(self, value: Any) -> bool:
        self.link.weak = True
        target = self.link.ask({"name": self.name})
        return type(value) is Remote and type(target) is Remote and self.link.do("isinstance", value, target) is True


class Scope(dict[str, Any]):
    """Globals of the test: its names, Python's, well-known modules, and otherwise names of the program."""

    link: Link

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        if name in MODULES:
            return importlib.import_module(name)
        if name in KNOWN:
            return getattr(importlib.import_module(KNOWN[name]), name)
        return self.link.named(name)


def check(setup: str, asserts: list[str], fd: int) -> None:
    """Runs each statement over the socket `fd`; reports for each if it held, and if the result is weak."""
    channel = Channel(fd)
    scope = Scope(__builtins__=builtins, __name__="tests")
    scope.link = link = Link(channel)
    try:
        exec(compile(setup, "setup.py", "exec"), scope)
    except BaseException as error:
        # after a query to the program, the fault may be the program's
        channel.send({"e" if link.asked else "broken": describe(error)})
        os._exit(1)
    link.classes = {n: c for n, c in scope.items() if isinstance(c, type) and c.__module__ == "tests"}
    channel.send({"ready": True})
    while True:
        statement = asserts[channel.receive()["test"]]
        link.weak = False
        try:
            exec(compile(statement, "test.py", "exec"), scope)
            verdict: dict[str, Any] = {"held": True, "weak": link.weak}
        except BaseException as error:
            verdict = {"held": False, "e": describe(error)}
        channel.send(verdict | {"told": link.told})


assert sys.version_info >= (3, 11)
