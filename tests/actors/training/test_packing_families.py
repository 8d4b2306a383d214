"""Packing of every model family: a changed row leaves the others exactly as they were, or packing is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from actors.training.scorer import CausalScorer
from tests.integration.families import FAMILIES, VOCABULARY, build

FAIL = {"dbrx", "phimoe"}  # their forward pass fails in transformers 5.19
REFUSED = {
    "falcon": "its mask ignores the border of rows",
    "gpt-oss": "eager attention ignores the border of rows",
    "jamba": "state-space layers",
    "opt": "ignores positions",
    "qwen3-next": "linear attention and convolutions",
}
LENGTHS = torch.tensor([7, 12, 9])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("families")

    def get(name: str) -> Any:
        hf = build(name, Path(folder, name))
        hf.config._attn_implementation = "eager" if name == "gpt-oss" else "sdpa"
        return hf

    return get


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - FAIL))
def test_rows_of_a_pack_do_not_see_each_other(models: Any, name: str) -> None:
    scorer = CausalScorer(models(name))
    if name in REFUSED:
        with pytest.raises(ValueError, match=r"engine\.packing=true does not work"):
            scorer.check(True, torch.device("cpu"))
        return
    scorer.check(True, torch.device("cpu"))
    tokens = torch.randint(4, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(0))
    others = tokens.clone()
    others[0, :7] = (tokens[0, :7] + 11) % VOCABULARY
    with torch.no_grad():
        first = scorer(tokens, LENGTHS, 1.0, 1, False, True)
        second = scorer(others, LENGTHS, 1.0, 1, False, True)
        padded = scorer(tokens, LENGTHS, 1.0, 1, False, False)
    assert not torch.equal(first[0], second[0])
    torch.testing.assert_close(first[1:], second[1:], rtol=0, atol=0)
    torch.testing.assert_close(first, padded, rtol=1e-4, atol=1e-4)
