"""pass@k."""

from __future__ import annotations

import itertools

import pytest

from rlcore.loops.evaluate import pass_at_k


def test_pass_at_k_equals_enumeration():
    for n, c, k in [(5, 2, 3), (4, 0, 2), (4, 4, 1), (6, 1, 6)]:
        draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(any(d) for d in draws) / len(draws))
    with pytest.raises(ValueError, match="k <= samples"):
        pass_at_k(2, 1, 3)
