"""vLLM's own reload on small modules, without an engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

pytest.importorskip("vllm")

from vllm.model_executor.model_loader.reload import layerwise

from actors.generation.vllm_model import COPIED, begin_reload, lost_layers, parameter_names


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False)
        self.requires_grad_(False)

    def copy(self, values: dict[str, torch.Tensor]) -> set[str]:
        """Writes past the loaders, as GPT-OSS does."""
        parameters = dict(self.named_parameters())
        for name, value in values.items():
            parameters[name].copy_(value)
        return set(values)

    def load(self, values: dict[str, torch.Tensor]) -> set[str]:
        parameters = dict(self.named_parameters())
        for name, value in values.items():
            parameters[name].weight_loader(parameters[name], value)  # type: ignore[operator]
        return set(values)


class Copied(Model):
    """Its class name is on the list below."""


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    layerwise.record_metadata_for_reloading(made)
    yield made
    layerwise.finalize_layerwise_reload(made, None)


def values() -> dict[str, torch.Tensor]:
    return {"first.weight": torch.full((3, 2), 2.0), "second.weight": torch.full((1, 3), 3.0)}


def test_loaded_layers_are_not_lost(model: Model) -> None:
    begin_reload(model)
    loaded = model.load(values())
    assert lost_layers(model, loaded) == []
    layerwise.finalize_layerwise_reload(model, None)
    assert torch.equal(model.first.weight, values()["first.weight"])


def test_a_layer_whose_loader_is_passed_by_is_named(model: Model) -> None:
    begin_reload(model)
    loaded = model.copy({"first.weight": values()["first.weight"]})
    loaded |= model.load({"second.weight": values()["second.weight"]})
    assert lost_layers(model, loaded) == ["first"]


def test_a_layer_that_was_not_sent_is_not_lost(model: Model) -> None:
    begin_reload(model)
    assert lost_layers(model, model.load({"second.weight": values()["second.weight"]})) == []


def test_parameters_of_listed_classes_can_be_copied_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COPIED, "Copied", {"weight"})
    model = Copied()
    before = model.first.weight.data_ptr()
    layerwise.record_metadata_for_reloading(model)
    begin_reload(model)
    assert lost_layers(model, model.copy(values())) == []
    layerwise.finalize_layerwise_reload(model, None)
    assert torch.equal(model.first.weight, values()["first.weight"])
    assert torch.equal(model.second.weight, values()["second.weight"])
    assert model.first.weight.data_ptr() == before  # captured graphs keep reading the same storage


def test_a_parameter_in_two_places_has_two_names() -> None:
    model = Model()
    model.second.weight = model.first.weight
    assert parameter_names(model) == [{"first.weight", "second.weight"}]
