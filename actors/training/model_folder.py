"""Reading and writing Hugging Face model folders."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from actors.config.schema import ModelConfig
from actors.training import lora
from actors.training.checkpoint_format import Gather, parts, restore_conversions, to_checkpoint
from actors.training.streaming import Shards

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model")
BUCKET_BYTES = 64 << 20  # of weights that are gathered at once for a folder
COMPANIONS = (*TOKENIZER_FILES, "chat_template*", "generation_config.json", "*.py")


def load_model(path: str, config: ModelConfig) -> torch.nn.Module:
    """A Hugging Face causal LM on CPU in `config.dtype`, in eval mode (no dropout), so that log-probs are repeatable.

    Raises:
        ValueError: an attention that the architecture or this machine does not have; gradient checkpointing (which
            Hugging Face runs in training mode alone) of a model with dropout.
    """
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, config.dtype.value),
            attn_implementation=config.attention,
            trust_remote_code=config.trust_remote_code,
        )
    except (ValueError, ImportError) as error:
        if not any(w in str(error) for w in ("attention implementation", "attn_implementation", "FlashAttention")):
            raise
        cure = "eager" if config.attention == "sdpa" else "sdpa"
        cause = str(error).split(". ")[0]  # what follows names the argument of transformers, which is not ours
        raise ValueError(
            f"{path} cannot run with model.attention={config.attention}: {cause}. Set model.attention={cure}"
        ) from error
    restore_conversions(model)
    model.eval()
    if config.gradient_checkpointing:
        drops = {k: v for k, v in model.config.to_dict().items() if ("dropout" in k or k.endswith("pdrop")) and v}
        if drops:
            raise ValueError(f"model.gradient_checkpointing=true needs a model without dropout; {path} has {drops}")
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    return model  # type: ignore[no-any-return]


def save_model(hf: torch.nn.Module, source: str, target: Path | None, gather: Gather) -> None:
    """Writes a Hugging Face folder: weights in the checkpoint format, config, and the companions of `source`.

    The writing process holds one bucket of gathered weights and one file (`streaming.SHARD_BYTES`) in memory.

    Args:
        source: folder or hub id that `hf` was loaded from.
        target: an existing folder; None on ranks that only gather.
        gather: makes parameters whole; a collective.
    """
    shards = None
    if target is not None:
        _save_rest(hf, source, target)  # transformers would delete files that are already there
        shards = Shards(target, "model", ".safetensors")
    tied = set(tied_names(hf))
    for part in parts(hf, BUCKET_BYTES, gather):
        if shards is not None:
            for name, tensor in to_checkpoint(hf, {n: t for n, t in part.items() if n not in tied}):
                shards.add(name, tensor)
                del tensor
        del part  # or it would stay in memory while the next one is gathered
    if shards is not None:
        shards.close(index=True)


def tied_names(hf: torch.nn.Module) -> list[str]:
    """Duplicate names of tied weights, which a folder does not store."""
    return [name for weight in lora.weights(hf) for name in weight.names[1:]]


def _save_rest(hf: torch.nn.Module, source: str, target: Path) -> None:
    """Everything but the weights.

    The generation config is written without transformers' validation, which rejects many published folders (a
    temperature without do_sample); a finished training would be lost.
    """
    from transformers import GenerationConfig

    model: Any = hf
    generation = getattr(model, "generation_config", None)
    if generation is None:  # a classifier: transformers leaves sampling settings in its config, and refuses them here
        for key in model.config._get_generation_parameters():
            delattr(model.config, key)
    else:
        model.generation_config = GenerationConfig()
    try:
        model.save_pretrained(target, state_dict={})
    finally:
        model.generation_config = generation
    if generation is not None:
        generation.to_json_file(target / "generation_config.json", keys_to_pop=["compile_config"])
    copy_companions(source, target)


def check_export(hf: torch.nn.Module, source: str) -> None:
    """`save_model` into a temporary folder, but for the weights: what would fail there fails before the training.

    Raises:
        ValueError: the model could not be saved.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            _save_rest(hf, source, Path(folder))
        except Exception as error:
            raise ValueError(
                f"the model of {source} could not be written at the end of the training: {type(error).__name__}: "
                f"{error}. Correct the files of that folder"
            ) from error


def copy_companions(source: str, target: Path) -> None:
    """Copies the other files of a folder: tokenizer, chat template, generation config, code.

    Copied as they are: a tokenizer that is loaded and saved again is not always the same. Of a hub id, the tokenizer.
    """
    folder = Path(source)
    if not folder.is_dir():
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(source).save_pretrained(target)
        return
    for pattern in COMPANIONS:
        for file in folder.glob(pattern):
            if file.is_file():
                shutil.copy2(file, target / file.name)
