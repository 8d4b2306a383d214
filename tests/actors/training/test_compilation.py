from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from actors.training.compilation import compile_layers, decoder_layers
from actors.training.scorer import CausalScorer
from tests.integration.families import FAMILIES, VOCABULARY, build


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"dbrx"}))  # transformers cannot build it
def test_the_layers_of_every_family_are_found(tmp_path: Path, name: str) -> None:
    hf = build(name, tmp_path)
    assert len(decoder_layers(hf)) == hf.config.num_hidden_layers


def scores(hf: torch.nn.Module, checkpointing: bool) -> list[torch.Tensor]:
    """Log-probs and gradients of batches of several shapes."""
    if checkpointing:
        hf.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        hf.train()
    scorer, found = CausalScorer(hf), []
    for rows, length in [(4, 20), (3, 33), (7, 12)]:
        tokens = torch.randint(4, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(rows))
        hf.zero_grad()
        out = scorer(tokens, torch.full((rows,), length), 1.0, 1, True, False)
        out.sum().backward()
        found += [out.detach(), *[p.grad.clone() for p in hf.parameters() if p.grad is not None]]
    return found


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_layers_give_the_same_scores_and_gradients(tmp_path: Path, backend: str, checkpointing: bool) -> None:
    hf = build("qwen2", tmp_path)
    names = [name for name, _ in hf.named_parameters()]
    wanted = scores(hf, checkpointing)
    compile_layers(hf, backend)
    compiled = torch._dynamo.utils.counters["stats"]
    compiled.clear()
    for found, right in zip(scores(hf, checkpointing), wanted, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4 * float(right.abs().max()))
    assert compiled["unique_graphs"] > 0
    assert [name for name, _ in hf.named_parameters()] == names


def test_a_model_without_known_layers_is_refused() -> None:
    model = torch.nn.Linear(2, 2)
    model.config = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="finds no layers in Linear"):
        compile_layers(model)
