"""Tests of configs run at the root of the repository."""

from __future__ import annotations

import pytest

from tests.actors.config.cases import ROOT


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)
