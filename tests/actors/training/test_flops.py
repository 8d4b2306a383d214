"""Operations of a model, by hand and against PyTorch's own counter."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from actors.training.flops import PEAKS, ModelFlops, model_flops, peak_flops

LLAMA = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64,
}  # fmt: skip


def llama(**changes) -> transformers.LlamaForCausalLM:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA | changes))


def test_parameters_by_hand():
    layer = 16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 24 + 2 * 16  # q, k and v, o, the MLP, two norms
    expected = ModelFlops(parameters=3 * layer + 16 + 50 * 16, attention=3 * 4 * 4)  # and the last norm, the head
    assert model_flops(llama()) == expected
    assert model_flops(llama(tie_word_embeddings=True)) == expected


def test_of_experts_only_those_in_use_count():
    config = transformers.MixtralConfig(**LLAMA, num_local_experts=4, num_experts_per_tok=1)
    one = transformers.MixtralForCausalLM(config)
    experts = sum(p.numel() for name, p in one.named_parameters() if ".experts." in name)
    assert experts == 3 * 4 * 3 * 16 * 24
    every = sum(p.numel() for p in one.parameters()) - 50 * 16
    assert model_flops(one).parameters == every - experts * 3 // 4


@pytest.mark.parametrize("length", [7, 33])
def test_a_forward_pass_as_pytorch_counts_it(length):
    """Norms and the rest of the elementwise work are not in PyTorch's count; their weights are in ours."""
    model = llama(attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, length, dtype=torch.long), use_cache=False)
    norms = 2 * 3 * 16 + 16
    assert model_flops(model).forward([length]) - 2 * norms * length == pytest.approx(
        counter.get_total_flops(), rel=2e-3
    )


def test_training_is_three_times_forward():
    flops = ModelFlops(parameters=1000, attention=10)
    assert flops.training([4]) == 3 * (2 * 1000 * 4 + 4 * 10 * 16)


@pytest.mark.parametrize(
    ("name", "peak"), [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H200", 989e12),
                       ("NVIDIA L40S", 362e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("Tesla T4", None)]
)  # fmt: skip
def test_peaks_of_devices(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), torch.bfloat16) == peak
    assert peak_flops(torch.device("cuda"), torch.float32) is None
    assert peak_flops(torch.device("cpu"), torch.bfloat16) is None


def test_no_name_hides_a_longer_one():
    names = list(PEAKS)
    assert [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if a in b] == []
