"""Reports of dropped rows."""

from __future__ import annotations

import pytest

from rlcore.data.filters import FilterReport


def test_a_report_that_loses_rows_is_refused():
    with pytest.raises(ValueError, match="do not add up"):
        FilterReport(3, 1, {"a": 3}, {"a": 1}, ())
