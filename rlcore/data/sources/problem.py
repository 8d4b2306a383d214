"""Errors in single rows."""

from __future__ import annotations

from typing import Any


class BrokenRow(Exception):
    """An invalid row; loops over rows catch it and report it with the place of the row."""


def shown(value: Any) -> str:
    """A shortened value and its type, for error messages."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '...'} ({type(value).__name__})"
