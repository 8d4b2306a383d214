"""Functions by name or by path: advantages and policy losses, and the loader of users' Python files.

It does not import torch, so that the decorators are cheap where only rewards are computed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from rlcore.problems import UserError, suggest

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)

PACKAGES = frozenset(
    {"rlcore", "actors", "ray", "torch", "numpy", "vllm", "deepspeed", "transformers", "hydra", "omegaconf", "yaml"}
    | {"pyarrow", "sympy", "regex", "tokenizers", "safetensors", "rich"}
)  # a module with one of these names, first on sys.path, is imported instead
MAX_MESSAGE = 2000  # characters of an error text in messages


class RegistryError(UserError, RuntimeError):
    """A function that cannot be found, loaded or registered."""


class Registry:
    """Functions of one kind, by name.

    >>> shapes = Registry("shape")
    >>> @shapes.register("square")
    ... def square(x: float) -> float:
    ...     return x * x
    >>> shapes.get("square") is square, shapes.names()
    (True, ['square'])

    Args:
        kind: name of the kind of functions, for messages.
        cure: how to set a custom function, for messages.
        paths: `get` also takes a path to a function, and names have no ":".
        error: exception class to raise.
    """

    def __init__(self, kind: str, cure: str = "", paths: bool = False, error: type[UserError] = RegistryError) -> None:
        self.kind, self.cure, self.paths, self.error = kind, cure, paths, error
        self._held: dict[str, Function] = {}

    def register(self, name: str) -> Callable[[F], F]:
        """Decorator that registers a function and returns it unchanged.

        Raises:
            UserError: no name, a name that looks like a path, or a duplicate name (with both places).
        """
        if not isinstance(name, str) or not name or (self.paths and ":" in name):
            form = ' without ":"' if self.paths else ""
            raise self.error(f'a {self.kind} needs a name{form}, as in ("my_name"), got {name!r}')

        def add(fn: F) -> F:
            if name in self._held:
                places = f"by {origin(self._held[name])} and by {origin(fn)}"
                raise self.error(f"{self.kind} {name!r} is registered twice: {places}; rename one")
            self._held[name] = fn
            return fn

        return add

    def get(self, name: str) -> Function:
        """The function registered under `name`; with `paths` also that at `path/to/file.py:function` or
        `package.module:function`.

        Raises:
            UserError: no such name (the message has the nearest one and the list), or a path that does not load.
        """
        if self.paths and ":" in name:
            return load_function(name, self.kind)
        if name not in self._held:
            text = f"no {self.kind} is named {name!r}{suggest(str(name), self._held)}"
            raise self.error(f"{text}; registered: {', '.join(self._held) or 'none'}. {self.cure}".removesuffix(". "))
        return self._held[name]

    def names(self) -> list[str]:
        """Names in order of registration."""
        return list(self._held)


_CURE = "For a custom one, name its file in algorithm.files, or set algorithm.{}=path/to/file.py:function"
ADVANTAGES = Registry("advantage", _CURE.format("advantage"), paths=True)
POLICY_LOSSES = Registry("policy loss", _CURE.format("loss"), paths=True)


def advantage(name: str) -> Callable[[F], F]:
    """Registers an advantage function for `algorithm.advantage`.

    It takes an `rlcore.algorithms.advantages.AdvantageInputs` and returns advantages, or (advantages, returns): [N],
    a number for every token, or [B], one for every row.

    Raises:
        RegistryError: the name is empty, contains a colon, or is a duplicate.
    """
    return ADVANTAGES.register(name)


def policy_loss(name: str) -> Callable[[F], F]:
    """Registers a policy loss for `algorithm.loss`.

    It takes an `rlcore.algorithms.policy_gradient.LossInputs` and returns ([b, t] loss, metrics).

    Raises:
        RegistryError: the name is empty, contains a colon, or is a duplicate.
    """
    return POLICY_LOSSES.register(name)


def origin(fn: Function) -> str:
    """Function and file:line, for messages."""
    name = getattr(fn, "__qualname__", type(fn).__name__)
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code else name


def describe(error: BaseException) -> str:
    """`TypeName: message`, also for exceptions whose own `str` raises."""
    try:
        text = str(error)
    except Exception:
        text = "<its message cannot be printed>"
    name = type(error).__name__
    return f"{name}: {text[:MAX_MESSAGE]}" if text else name


def absolute(path: str) -> str:
    """`file.py` or `file.py:function` as an absolute path; names and modules are unchanged.

    >>> absolute("/a/../b.py:f"), absolute("group"), absolute("package.module:f")
    ('/b.py:f', 'group', 'package.module:f')
    """
    target, separator, function = path.rpartition(":") if ":" in path else (path, "", "")
    return f"{Path(target).expanduser().resolve()}{separator}{function}" if target.endswith(".py") else path


def load_function(path: str, kind: str, error: type[RuntimeError] = RegistryError) -> Function:
    """Imports `path/to/file.py:function` or `package.module:function`; see `load_file`.

    Raises:
        error: malformed path, missing file, module or function, an import that raises, or not a function.
    """
    target, separator, function = path.rpartition(":")
    if not separator or not target or not function:
        raise error(f"{path!r} is no {kind} path: write path/to/file.py:function or package.module:function")
    module = _load(target, f"for the {kind} {path!r} ", kind, error)
    fn = getattr(module, function, None)
    if fn is None:
        public = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise error(f"{target} has no function {function!r}{suggest(function, public)}")
    if not callable(fn):
        raise error(f"{function!r} in {target} is a {type(fn).__name__}, not a function")
    return fn  # type: ignore[no-any-return]


def load_file(target: str, kind: str = "Python", error: type[RuntimeError] = RegistryError) -> ModuleType:
    """Imports a Python file once per process, so that its registered functions are available.

    Its folder is put first on `sys.path`, as for a script, so that modules next to it can be imported. Relative paths
    start at the working directory.

    Raises:
        error: a missing file, not Python, or an import that raises (for example because of a duplicate name).
    """
    if not target.endswith(".py"):
        raise error(f"{target} is no Python file: its name must end in .py")
    return _load(target, "", kind, error)


def shadowing(target: str) -> str:
    """A warning if modules next to a Python file would hide one of the standard library, or a package of rlcore, when
    `load_file` puts their folder first on `sys.path`; "" otherwise, and for a file that does not exist.
    """
    folder = Path(target).expanduser().resolve().parent
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    modules = [p for p in entries if (p.suffix == ".py" and p.is_file()) or (p / "__init__.py").is_file()]
    hiding = [p.name for p in modules if p.stem in sys.stdlib_module_names or (p.stem in PACKAGES and not _is_own(p))]
    text = "would be imported instead of the modules of this name in Python or its packages"
    return f"its folder goes first on sys.path: {', '.join(hiding)} {text}" if hiding else ""


def _is_own(place: Path) -> bool:
    """True for a package that is imported from this place anyway, as in a clone of rlcore."""
    loaded = getattr(sys.modules.get(place.stem), "__file__", None)
    return loaded is not None and Path(loaded).resolve().parent == place


def code_digest(target: str) -> str:
    """Digest of the Python code in a file or module, 16 hex digits, independent of comments and layout. "" if
    unreadable.
    """
    try:
        found = None if target.endswith(".py") else importlib.util.find_spec(target)
        file = Path(found.origin) if found is not None and found.origin else Path(target).expanduser()
        return hashlib.sha256(ast.dump(ast.parse(file.read_bytes())).encode()).hexdigest()[:16]
    except (OSError, ImportError, SyntaxError, ValueError):
        return ""


def _load(target: str, purpose: str, kind: str, error: type[RuntimeError]) -> ModuleType:
    try:
        return _import_file(target, kind, error) if target.endswith(".py") else importlib.import_module(target)
    except error:
        raise
    except BaseException as caught:
        if isinstance(caught, KeyboardInterrupt):
            raise
        raise error(f"importing {target} {purpose}raised {describe(caught)}") from caught


def _import_file(target: str, kind: str, error: type[RuntimeError]) -> ModuleType:
    file = Path(target).expanduser().resolve()
    if not file.is_file():
        raise error(f"{kind} file {target} does not exist (looked for {file})")
    # one module name for all kinds, so that a file with a reward and a loss is imported once
    name = f"rlcore_file_{file.stem}_{hashlib.sha1(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise error(f"{file} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
