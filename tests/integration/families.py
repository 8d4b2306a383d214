"""Tiny random model folders of many architectures, with one byte tokenizer for all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 260  # 4 special tokens and 256 bytes
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "initializer_range": 0.2,
}
GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY, "n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 256, "bos_token_id": 2,
    "eos_token_id": 1, "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
MLA = {"q_lora_rank": 64, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 32}
DEEPSEEK = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip

# name: (prefix of the classes in transformers, differences from SIZES, or None for a family with sizes of its own)
DENSE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-yarn": ("Llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4,
                                                 "original_max_position_embeddings": 64}}),
    "mistral-window": ("Mistral", {"sliding_window": 16}),
    "qwen2": ("Qwen2", {}),
    "qwen3-tied": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "gemma": ("Gemma", {"head_dim": 32}),
    "gemma2": ("Gemma2", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}),
    "gemma3": ("Gemma3", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}),
    "phi3": ("Phi3", {}),
    "phi": ("Phi", {}),
    "olmo2": ("Olmo2", {}),
    "granite": ("Granite", {"logits_scaling": 4.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5}),
    "smollm3": ("SmolLM3", {}),
    "cohere": ("Cohere", {"logit_scale": 0.25}),
    "cohere2": ("Cohere2", {"sliding_window": 16}),
    "stablelm": ("StableLm", {}),
    "starcoder2": ("Starcoder2", {}),
    "helium": ("Helium", {"head_dim": 32}),
    "nemotron": ("Nemotron", {}),
    "gpt-neox": ("GPTNeoX", {"num_key_value_heads": 4}),  # vLLM would believe another number
    "falcon": ("Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "opt": ("OPT", {"ffn_dim": 192, "word_embed_proj_dim": 128}),
    "gpt2": ("GPT2", GPT2),
}  # fmt: skip
EXPERT: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2-moe": ("Qwen2Moe", EXPERTS | {"shared_expert_intermediate_size": 96}),
    "qwen3-moe": ("Qwen3Moe", EXPERTS | {"head_dim": 32}),
    "olmoe": ("Olmoe", EXPERTS),
    "flex-olmo": ("FlexOlmo", {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64}),
    "deepseek-v2": ("DeepseekV2", DEEPSEEK | MLA | {"num_key_value_heads": 4}),
    "deepseek-v3": ("DeepseekV3", DEEPSEEK | MLA | {"num_key_value_heads": 4, "topk_method": "noaux_tc"}),
    "glm4-moe": ("Glm4Moe", DEEPSEEK | {"head_dim": 32}),
    "dots1": ("Dots1", DEEPSEEK | {"head_dim": 32}),
    "ernie4_5-moe": ("Ernie4_5_Moe", {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 64,
                                      "moe_num_shared_experts": 1, "moe_layer_start_index": 1}),
    "granite-moe": ("GraniteMoe", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "phimoe": ("Phimoe", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "minimax-m2": ("MiniMaxM2", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32, "rotary_dim": 32}),
    "gpt-oss": ("GptOss", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32, "sliding_window": 16}),
    "hunyuan-moe": ("HunYuanMoEV1", {"num_experts": 4, "moe_topk": 2, "head_dim": 32}),
    "qwen3-next": ("Qwen3Next", EXPERTS | {"head_dim": 32, "num_hidden_layers": 4,
                                           "shared_expert_intermediate_size": 64}),
    "jamba": ("Jamba", {"num_experts": 4, "num_experts_per_tok": 2}),
    "dbrx": ("Dbrx", {"d_model": 128}),
}  # fmt: skip
FAMILIES = DENSE | EXPERT


def build(name: str, folder: Path, seed: int = 0, **changes: Any) -> Any:
    """Writes the folder of a family and returns the model, float32 on the CPU."""
    prefix, own = FAMILIES[name]
    sizes = {} if prefix in ("GPT2", "Dbrx") else SIZES
    config = getattr(transformers, {"Gemma3": "Gemma3TextConfig"}.get(prefix, f"{prefix}Config"))(
        **(sizes | own | changes)
    )
    torch.manual_seed(seed)
    kind = {"GPT2": "GPT2LMHeadModel"}.get(prefix, f"{prefix}ForCausalLM")
    model = getattr(transformers, kind)(config).float().eval()
    with torch.no_grad():  # biases and router corrections start at zero, and what is never sent would go unseen
        for tensor in [*model.parameters(), *(b for n, b in model.named_buffers() if "correction_bias" in n)]:
            tensor.add_(0.02 * torch.randn_like(tensor))
    model.generation_config = transformers.GenerationConfig(eos_token_id=1, pad_token_id=0)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return model


def byte_tokenizer() -> PreTrainedTokenizerFast:
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {f"{token[1:-1]}_token": token for token in special}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def add_to(file: Path, **values: Any) -> None:
    """Sets keys of a JSON file."""
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | values))
