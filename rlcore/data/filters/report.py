"""Report of dropped rows: one line per filter and reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Drop:
    """Rows that one filter dropped for one reason."""

    filter: str  # place and kind, "2 length"
    reason: str
    dropped: int
    sources: Mapping[str, int]  # source of the prompt -> rows; sums to `dropped`


@dataclass(frozen=True, slots=True)
class FilterReport:
    """Rows in, kept and dropped by reason, in total and per source.

    >>> report = FilterReport(3, 2, {"web": 3}, {"web": 2}, (Drop("0 length", "prompt too long", 1, {"web": 1}),))
    >>> print(report.render())
    filter    reason           rows  share  web
              rows in             3   100%    3
    0 length  prompt too long     1    33%    1
              rows kept           2    67%    2
    """

    rows_in: int
    rows_kept: int
    sources_in: Mapping[str, int]
    sources_kept: Mapping[str, int]
    drops: tuple[Drop, ...]

    def __post_init__(self) -> None:
        """Raises:
        ValueError: rows are missing, or counted twice.
        """
        if self.rows_in != self.rows_kept + sum(drop.dropped for drop in self.drops):
            raise ValueError(
                f"{self.rows_in} rows in, {self.rows_kept} kept, and the drops do not add up: {self.drops}"
            )
        for source, rows in self.sources_in.items():
            out = sum(drop.sources.get(source, 0) for drop in self.drops)
            if rows != self.sources_kept.get(source, 0) + out:
                raise ValueError(f"source {source!r}: {rows} rows in, {out} dropped, and the rest was not kept")

    def to_json(self) -> dict[str, Any]:
        """JSON-able and deterministic for the same table and filters."""
        return dataclasses.asdict(self) | {"drops": [dataclasses.asdict(drop) for drop in self.drops]}

    def render(self, max_sources: int = 6) -> str:
        """An aligned table with at most `max_sources` sources, the largest."""
        sources = sorted(self.sources_in, key=lambda s: (-self.sources_in[s], s))[:max_sources]
        lines = [("", "rows in", self.rows_in, self.sources_in)]
        lines += [(drop.filter, drop.reason, drop.dropped, drop.sources) for drop in self.drops]
        lines += [("", "rows kept", self.rows_kept, self.sources_kept)]
        cells = [["filter", "reason", "rows", "share", *(s or "(no source)" for s in sources)]]
        for name, reason, rows, held in lines:
            share = f"{rows / self.rows_in:.0%}" if self.rows_in else "-"
            cells.append([name, reason, f"{rows:,}", share, *(f"{held.get(s, 0):,}" for s in sources)])
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        return "\n".join(
            "  ".join(
                c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        )
