"""Filters over tables of prompts, samples and pairs: every dropped row has a reason, and the reasons are counted.

kept, report = apply(table, [{"kind": "duplicates"}, {"kind": "length", "max": 512}], FilterContext())
print(report.render())
"""

from rlcore.data.filters.apply import apply
from rlcore.data.filters.checking import check
from rlcore.data.filters.config import KINDS, FilterConfig
from rlcore.data.filters.report import Drop, FilterReport
from rlcore.data.filters.verdict import FilterContext

__all__ = ["KINDS", "Drop", "FilterConfig", "FilterContext", "FilterReport", "apply", "check"]
