import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlcore.ops.segments import BLOCK, discounted_sums, row_sums
from tests.ops.cases import cases  # noqa: F401  for its hypothesis profile

LENGTHS = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 3 * BLOCK), st.just(BLOCK**2 + 1)), max_size=5)


def offsets_of(lengths: list[int]) -> torch.Tensor:
    return torch.nn.functional.pad(torch.tensor(lengths, dtype=torch.int64).cumsum(0), (1, 0))


@given(LENGTHS, st.floats(0, 1), st.integers(0, 1000))
def test_discounted_sums_twin(lengths: list[int], factor: float, seed: int) -> None:
    offsets = offsets_of(lengths)
    x = torch.randn(int(offsets[-1]), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    got = discounted_sums(x, offsets, factor)
    assert got.dtype == torch.float64
    for start, end in zip(offsets.tolist(), offsets.tolist()[1:], strict=False):
        later = 0.0
        for t in reversed(range(start, end)):
            later = x[t].item() + factor * later
            assert got[t].item() == pytest.approx(later, rel=1e-12, abs=1e-12)


@given(LENGTHS, st.integers(0, 1000))
def test_row_sums_twin(lengths: list[int], seed: int) -> None:
    offsets = offsets_of(lengths)
    x = torch.randn(int(offsets[-1]), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rows = zip(offsets.tolist(), offsets.tolist()[1:], strict=False)
    assert row_sums(x, offsets).tolist() == pytest.approx([float(x[a:b].sum()) for a, b in rows], abs=1e-12)


def test_a_row_longer_than_three_levels_of_blocks() -> None:
    """Equal entries have a closed form: (1 - f^n) / (1 - f)."""
    n, f = BLOCK**3 + 5, 0.999
    got = discounted_sums(torch.ones(n + 1), torch.tensor([0, n, n + 1]), f)
    left = torch.arange(n, 0, -1, dtype=torch.float64)
    torch.testing.assert_close(got[:n], ((1 - f**left) / (1 - f)).float())
    assert got[n] == 1
    assert got.dtype == torch.float32
