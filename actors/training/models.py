"""Model folders: the randomly initialised tiny model, GGUF conversion, early checks."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import pre_tokenizers

from actors.config.schema import ModelConfig, TinyModelConfig
from rlcore.problems import UserError
from rlcore.storage.durable import new_folder
from rlcore.types import Prompt

MAX_TINY_PARAMETERS = 2_000_000
PAD, EOS = "<pad>", "<eos>"  # ids 0 and 1
CHARACTERS = "\n" + "".join(map(chr, range(0x20, 0x7F)))
INITIAL_MODEL = "initial_model"
_ORIGIN = "rlcore_origin.json"  # inside a folder that this module wrote: what it was made of
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
if not torch.cuda.is_available():  # DeepSpeed, which transformers imports, would warn on every start
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
transformers.utils.logging.disable_progress_bar()  # suppresses one log line per file of a model folder
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


class ModelError(UserError, ValueError):
    """A model folder cannot be used; the message has the cure."""


def prepare_model(config: ModelConfig, run_dir: Path, seed: int) -> Path:
    """The model to start from, as a Hugging Face folder that transformers and vLLM load, or a hub id as it is.

    Without `config.path` the tiny model is built, with `config.gguf_file` that file is converted, into
    `run_dir/initial_model`; once, unless what it was made of has changed. Only the tiny model depends on the seed.

    Raises:
        ModelError: the folder, its tokenizer, config or weights are missing; a tiny model over two million parameters
            or with heads that do not divide it; a GGUF file that is missing or cannot be read.
    """
    if config.path is None:
        if config.gguf_file:
            raise ModelError(f"model.gguf_file={config.gguf_file} needs model.path, the folder that holds it")
        origin: dict[str, Any] = {"kind": "tiny", "seed": seed, **dataclasses.asdict(config.tiny)}
        return _built(run_dir, origin, lambda folder: _build_tiny(config.tiny, seed, folder))
    if config.gguf_file:
        file = _gguf_path(config.path, config.gguf_file)
        return _built(run_dir, _fingerprint(file), lambda folder: _convert_gguf(file, folder))
    if not _is_local(config.path):
        return Path(config.path)
    folder = Path(config.path).expanduser()
    check_model(folder)
    return folder


def load_tokenizer(path: Path | str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder or hub id.

    Raises:
        ModelError: it cannot be loaded, or has no end token, so that samples would never end.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"cannot load the tokenizer of {path}: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer of {path} has no eos_token; set it in tokenizer_config.json")
    return tokenizer


def other_tokenizer(mine: Any, other: Any) -> str:
    """Differences of two tokenizers; "" if equal."""
    if (a := mine.get_vocab()) != (b := other.get_vocab()):
        missing = sorted(set(a) ^ set(b))[:3]
        shown = f", such as {missing}" if missing else ": the same tokens under other numbers"
        return f"its tokenizer has another vocabulary ({len(b)} tokens, the run's has {len(a)}{shown})"
    if mine.eos_token_id != other.eos_token_id:
        return f"its tokenizer ends with token {other.eos_token_id}, the run's with {mine.eos_token_id}"
    return ""


def embedding_problem(path: Path | str, tokenizer: Any, prompts: Iterable[Prompt] = (), trust: bool = False) -> str:
    """A token of the run outside of the model's embeddings, and the cure; "" if there is none.

    Looked at: the tokenizer's end and padding token, the end tokens of generation_config.json, and every token of the
    prompts and their references. A tokenizer may know more tokens than the model, as long as none of them is used.

    Args:
        trust: `model.trust_remote_code`.
    """
    config = transformers.AutoConfig.from_pretrained(str(path), trust_remote_code=trust).get_text_config()
    count = int(config.vocab_size)

    def text(token: int, where: str) -> str:
        return (
            f"token {token} ({tokenizer.convert_ids_to_tokens(token)!r}), {where}, is beyond the {count} embeddings of "
            f"{path}: resize its embeddings to the {len(tokenizer)} tokens of its tokenizer, or give it a tokenizer "
            "without the tokens that were added"
        )

    named = [(tokenizer.eos_token_id, "the tokenizer's end token"), (tokenizer.pad_token_id, "its padding token")]
    file = Path(path) / "generation_config.json"
    ends = _read_json(file).get("eos_token_id") if file.is_file() else None
    named += [(end, "an end token of generation_config.json") for end in (ends if isinstance(ends, list) else [ends])]
    for token, where in named:
        if token is not None and token >= count:
            return text(token, where)
    if max(tokenizer.get_vocab().values(), default=0) < count:
        return ""
    for prompt in prompts:
        if (token := max(prompt.token_ids, default=0)) >= count:
            return text(token, f"in prompt {prompt.uid}")
        if prompt.reference and (token := max(tokenizer(prompt.reference)["input_ids"], default=0)) >= count:
            return text(token, f"in the reference of prompt {prompt.uid}")
    return ""


def rope_problem(path: Path | str, longest: int, trust: bool = False) -> str:
    """The reason why trainer and sampler would use different positions, and the cure; "" if they agree.

    transformers scales a dynamic RoPE by the longest row of a batch, so that log-probs of a row depend on its
    neighbours; vLLM by the longest sequence it could hold.

    Args:
        longest: tokens of a prompt and its response together, at most.
        trust: `model.trust_remote_code`.
    """
    config = transformers.AutoConfig.from_pretrained(str(path), trust_remote_code=trust).get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    for one in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        kind = one.get("rope_type")
        original = one.get("original_max_position_embeddings") or config.max_position_embeddings
        if kind == "dynamic" and one.get("factor", 1.0) != 1.0:
            return (
                f"{path} has rope_type=dynamic: trainer and sampler would scale its positions differently. Without "
                f'the scaling it is good for {original} tokens: give its config.json "rope_type": "default", or "yarn"'
            )
        if kind == "longrope" and longest > original:
            return (
                f"{path} has rope_type=longrope, which changes its factors beyond {original} tokens, in the trainer by "
                f"the longest row of a micro-batch: prompt and response may have {original} tokens together, not "
                f"{longest}. Lower data.max_prompt_tokens, rollout.max_new_tokens or rollout.max_model_len"
            )
    return ""


def count_parameters(source: ModelConfig | Path | str) -> int:
    """Parameters of the model, tied ones once; from its config alone, no weight is read or allocated."""
    if isinstance(source, ModelConfig):
        if source.path is None:
            return _count(_tiny_hf_config(source.tiny))
        path, arguments = source.path, {"trust_remote_code": source.trust_remote_code}
        if source.gguf_file:
            return _count(_without_quantization(_read_gguf_config(_gguf_path(path, source.gguf_file))))
    else:
        path, arguments = str(source), {}
    if _is_local(path):
        path = str(Path(path).expanduser())
        _check_config(Path(path))
    return _count(transformers.AutoConfig.from_pretrained(path, **arguments), **arguments)


def check_model(folder: Path) -> None:
    """Checks the files of a model folder without loading weights.

    Raises:
        ModelError: the folder, config.json, the tokenizer or the weights (a shard, the end of a file) are missing.
    """
    _check_config(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER):
        raise ModelError(
            f"{folder} has no tokenizer ({', '.join(_TOKENIZER)}): copy the tokenizer files of the base model there"
        )
    present = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
    if not present:
        hint = f"; for a GGUF file set model.gguf_file={ggufs[0]}" if (ggufs := _ggufs(folder)) else ""
        raise ModelError(f"{folder} has no weights ({' or '.join(_WEIGHTS[::2])}, whole or in shards){hint}")
    files = present[:1]
    if files[0].suffix == ".json":
        index = _read_json(files[0])
        files = [folder / name for name in sorted(set(index.get("weight_map", {}).values()))]
        if missing := [f.name for f in files if not f.is_file()]:
            raise ModelError(f"{folder} lacks {len(missing)} of {len(files)} weight shards: {', '.join(missing[:5])}")
    for file in files:
        _check_whole(file)


def _check_config(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(
            f"model.path={folder}: no such folder. Give an existing folder, a hub id (owner/name), or leave model.path "
            "out to build the tiny model"
        )
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(f"{folder} holds an adapter, not a model: merge it into its base model first")
        hint = f"; for a GGUF file set model.gguf_file={ggufs[0]}" if (ggufs := _ggufs(folder)) else ""
        raise ModelError(f"{folder} has no config.json: it is not a Hugging Face model folder{hint}")
    if "model_type" not in (held := _read_json(folder / "config.json")):
        raise ModelError(f"{folder / 'config.json'} names no model_type; it has {', '.join(sorted(held)) or 'nothing'}")


def _check_whole(file: Path) -> None:
    """Detects a truncated download or a Git LFS pointer from the first bytes and the size."""
    with file.open("rb") as stream:
        head = stream.read(8)
        if head == b"version ":
            raise ModelError(f"{file} is a Git LFS pointer, not weights: run `git lfs pull` in its repository")
        if file.suffix != ".safetensors":
            return
        size = int.from_bytes(head, "little")
        if len(head) < 8 or 8 + size > file.stat().st_size:
            raise ModelError(f"{file} is cut off or not a safetensors file: get it again")
        try:
            tensors = json.loads(stream.read(size))
        except ValueError as error:
            raise ModelError(f"{file} is not a safetensors file: get it again") from error
    end = max((t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"), default=0)
    if (have := file.stat().st_size) != 8 + size + end:
        raise ModelError(f"{file} has {have} bytes, its header speaks of {8 + size + end}: get it again")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} holds a {type(value).__name__}, not an object")
    return value


def _is_local(path: str) -> bool:
    """True for a path: it exists, does not look like a hub id, or its parent folder exists."""
    local = Path(path).expanduser()
    return local.exists() or not _HUB_ID.fullmatch(path) or ("/" in path and local.parent.is_dir())


def _built(run_dir: Path, origin: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """`run_dir/initial_model`, made by `build` unless it is there and of this origin."""
    target = run_dir / INITIAL_MODEL
    if target.exists():
        if not (target / _ORIGIN).is_file():
            raise ModelError(f"{target} is in the way and was not made by this program: move it, or change run_dir")
        if _read_json(target / _ORIGIN) == origin:
            check_model(target)
            return target
    with new_folder(target) as folder:
        build(folder)
        (folder / _ORIGIN).write_text(json.dumps(origin, indent=1))
    return target


def _character_tokenizer(max_positions: int) -> Any:
    """One token per byte, no merges: an ASCII character is one token, any other text is still not lost.

    Byte-level because transformers rebuilds every tokenizer beside a Qwen2 config as a Qwen2Tokenizer, whatever class
    and pre-tokenizer were saved: a word-level vocabulary of characters comes back without its spaces.
    """
    ascii_first = [{" ": "Ġ", "\n": "Ċ"}.get(c, c) for c in CHARACTERS]
    others = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(ascii_first))
    return transformers.Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate([PAD, EOS, *ascii_first, *others])},
        merges=[],
        pad_token=PAD,
        eos_token=EOS,
        unk_token=None,
        model_max_length=max_positions,
        clean_up_tokenization_spaces=False,
    )


def _tiny_hf_config(config: TinyModelConfig) -> Any:
    if config.hidden_size % (2 * config.num_heads):
        raise ModelError(
            f"model.tiny.hidden_size={config.hidden_size} must be an even multiple of num_heads={config.num_heads}"
        )
    return transformers.Qwen2Config(
        vocab_size=2 + 256,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        max_position_embeddings=config.max_positions,
        tie_word_embeddings=config.tie_embeddings,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        dtype="float32",
    )


def _build_tiny(config: TinyModelConfig, seed: int, folder: Path) -> None:
    hf_config = _tiny_hf_config(config)
    if (count := _count(hf_config)) > MAX_TINY_PARAMETERS:
        raise ModelError(f"model.tiny has {count:,} parameters, at most {MAX_TINY_PARAMETERS:,} are meant for it")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.Qwen2ForCausalLM(hf_config)
    model.generation_config = transformers.GenerationConfig(eos_token_id=1, pad_token_id=0)
    model.save_pretrained(folder)
    _character_tokenizer(config.max_positions).save_pretrained(folder)


def _count(hf_config: Any, **arguments: Any) -> int:
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(hf_config, **arguments)
    return sum(p.numel() for p in model.parameters())


def _ggufs(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.glob("*.gguf"))


def _gguf_path(path: str, name: str) -> Path:
    file = Path(path).expanduser() / name
    if not file.is_file():
        held = ", ".join(_ggufs(file.parent)) or "none"
        raise ModelError(f"model.gguf_file={name}: no such file in {file.parent}; GGUF files there: {held}")
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(f"{file} is not a GGUF file: it does not start with GGUF")
    return file


def _fingerprint(file: Path) -> dict[str, Any]:
    """Name, size and a hash of both ends: reading gigabytes at every start to see that nothing changed is too much."""
    size, part = file.stat().st_size, 1 << 20
    with file.open("rb") as stream:
        digest = hashlib.sha256(stream.read(part))
        stream.seek(max(0, size - part))
        digest.update(stream.read(part))
    return {"kind": "gguf", "file": file.name, "size": size, "sha256_of_ends": digest.hexdigest()}


def _read_gguf_config(file: Path) -> Any:
    return transformers.AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name)


def _without_quantization(hf_config: Any) -> Any:
    """The weights are dequantised when read; a saved quantization_config would have loaders look for packed ones."""
    if hasattr(hf_config, "quantization_config"):
        del hf_config.quantization_config
    return hf_config


def _convert_gguf(file: Path, folder: Path) -> None:
    """Float32, since the optimizer's master weights start from it."""
    if lacking := [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]:
        raise ModelError(f"reading {file.name} needs {' and '.join(lacking)}: pip install {' '.join(lacking)}")
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(f"cannot read {file}: {error}") from error
    fresh = transformers.AutoModelForCausalLM.from_config(_without_quantization(loaded.config))
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = transformers.GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
    )
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
