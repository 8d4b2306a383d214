"""Languages of py3langid, by ISO 639-1 code."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any


def unknown(codes: Iterable[str]) -> list[str]:
    """The codes that the detector has no model for.

    Raises:
        RuntimeError: the package py3langid is not installed.
    """
    known = {code for code, _ in detector().rank("all of them")}
    return [code for code in codes if canonical(code) not in known]


def canonical(code: str) -> str:
    return code.strip().lower().replace("_", "-").split("-")[0]


def detector() -> Any:
    try:
        return importlib.import_module("py3langid")
    except ImportError as error:
        raise RuntimeError("the filter language needs the package py3langid (pip install 'rlcore[rewards]')") from error
