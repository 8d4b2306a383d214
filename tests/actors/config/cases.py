"""Refused configs, and the shipped presets."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.config.compose import ConfigError, check, compose

ROOT = Path(__file__).parents[3]
PRESETS = sorted(p.relative_to(ROOT / "conf").with_suffix("") for p in (ROOT / "conf").glob("*/*.yaml"))


def refused(*overrides: str) -> dict[str, str]:
    """What is wrong, by key."""
    with pytest.raises(ConfigError) as caught:
        check(compose(overrides))
    return {problem.key: problem.render() for problem in caught.value.problems}
