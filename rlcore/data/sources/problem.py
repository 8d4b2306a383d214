"""What is wrong with one row."""

from __future__ import annotations

from typing import Any


class BrokenRow(Exception):
    """Of one row; caught where rows are looped over, and reported with the row's place."""


def shown(value: Any) -> str:
    """A value for an error text, shortened, with its type."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '...'} ({type(value).__name__})"
