"""Entry of the console script `rlcore` and of `python -m rlcore`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent


def main() -> None:
    """Runs the command line in `actors`, unless another package of that name comes first on the import path."""
    spec = importlib.util.find_spec("actors")
    found = Path(spec.origin).resolve().parent if spec and spec.origin else None
    if found != HOME / "actors":
        where = found or (list(spec.submodule_search_locations or []) if spec else "nowhere")
        sys.exit(
            f"rlcore: its package `actors` is in {HOME}, but Python finds {where}\n"
            "  rename your package, or take its folder off PYTHONPATH"
        )
    importlib.import_module("actors.cli").main()


if __name__ == "__main__":
    main()
