"""Codes of languages."""

from __future__ import annotations

import pytest

from rlcore.data.filters import languages


def test_codes_the_detector_does_not_know():
    pytest.importorskip("py3langid")
    assert languages.unknown(["en", "pt-BR", "zh_Hans", "xx", "english"]) == ["xx", "english"]


def test_a_region_or_script_is_no_part_of_the_language():
    assert languages.canonical(" PT_br ") == "pt"
