"""The reward model: a Hugging Face sequence classification model with numeric labels."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actors.config.schema import ModelConfig
from actors.training.scorer import PROBE_LENGTHS, Scorer, real
from actors.training.worker import ModelWorker
from rlcore.types import RewardScale

log = logging.getLogger(__name__)
CAUSAL = ("ForCausalLM", "LMHeadModel")
CLASSIFIER = "ForSequenceClassification"
NEW = ("reward",)


@dataclass(frozen=True)
class RewardFolder:
    """Properties of a Hugging Face folder (or hub id) for a reward model."""

    path: str
    scale: RewardScale
    has_head: bool  # False: a causal language model: a new head replaces its output layer

    @classmethod
    def inspect(cls, path: str, model: ModelConfig, attributes: Sequence[str] | None = None) -> RewardFolder:
        """Reads its configuration, no weights.

        Args:
            attributes: names of the outputs; None: those of reward_model.json or of the configuration's labels, and
                ("reward",) where one output has no name or the head is new.

        Raises:
            ValueError: a model of another kind, another number of names than the head has outputs, or a
                reward_model.json that does not fit.
            OSError: no model there.
        """
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(path, trust_remote_code=model.trust_remote_code)
        kind = next(iter(config.architectures or ()), "")
        if kind.endswith(CAUSAL):
            return cls(path, RewardScale.of(NEW if attributes is None else attributes), False)
        if not kind.endswith(CLASSIFIER):
            raise ValueError(
                f"{path} holds a {kind or 'model of no known architecture'}: a reward model starts from a causal "
                f"language model or a {CLASSIFIER} folder (`architectures` in config.json)"
            )
        labels = [str(config.id2label[i]) for i in range(config.num_labels)]
        unnamed = len(labels) == 1 and labels[0] == "LABEL_0"
        scale = RewardScale.read(path) or RewardScale.of(NEW if unnamed else labels)
        if len(scale.attributes) != config.num_labels:
            raise ValueError(f"{path}: reward_model.json names {scale.attributes}, the head has {config.num_labels}")
        return cls(path, scale.named(attributes), True)

    def scorer(self, path: str, model: ModelConfig, trainable: bool = True) -> RewardScorer:
        """For `TrainEngine`: rows are run side by side, never packed."""
        return RewardScorer(self.load(model))

    def load(self, model: ModelConfig) -> nn.Module:
        """The model on CPU in `model.dtype`, in a mode without dropout. A new head is all 0, and so are its scores.

        Raises:
            ValueError: weights other than a new head's are missing, or gradient checkpointing (which Hugging Face runs
                in training mode alone) of a model with dropout.
        """
        from transformers import AutoModelForSequenceClassification

        hf, info = AutoModelForSequenceClassification.from_pretrained(
            self.path,
            dtype=getattr(torch, model.dtype.value),
            # sdpa is what Hugging Face takes by itself, where the architecture has it: DeBERTa has not
            attn_implementation=None if model.attention == "sdpa" else model.attention,
            trust_remote_code=model.trust_remote_code,
            num_labels=len(self.scale.attributes),
            output_loading_info=True,
        )
        missing = set(info["missing_keys"])
        head = {name for name in missing if not self.has_head and name.split(".")[0] in ("score", "classifier")}
        if missing - head:
            raise ValueError(f"{self.path} lacks {', '.join(sorted(missing - head))} of a {type(hf).__name__}")
        with torch.no_grad():  # alike on every rank, and every prompt's responses start as equals
            for name in head:
                hf.get_parameter(name).zero_()
        hf.config.id2label = dict(enumerate(self.scale.attributes))
        hf.config.label2id = {name: i for i, name in enumerate(self.scale.attributes)}
        self._set_padding(hf)
        hf.eval()
        if model.gradient_checkpointing:
            drops = {k: v for k, v in hf.config.to_dict().items() if ("dropout" in k or k.endswith("pdrop")) and v}
            if drops:
                raise ValueError(f"model.gradient_checkpointing=true needs a model without dropout: {drops}")
            hf.gradient_checkpointing_enable({"use_reentrant": False})
            hf.train()
        return hf  # type: ignore[no-any-return]

    def _set_padding(self, hf: Any) -> None:
        """Hugging Face finds a row's last token by the padding token, so the configuration must name one."""
        text = hf.config.get_text_config()
        end = text.eos_token_id[0] if isinstance(text.eos_token_id, list) else text.eos_token_id
        if text.pad_token_id is None:
            text.pad_token_id = next((i for i in (self._tokenizer_padding(), end) if i is not None), 0)
        if text.pad_token_id == end:
            log.warning(
                "%s pads with its end token %s: the reward is read one token earlier, and a response that was cut off "
                "looks like one that ended. Set another pad_token_id in its config.json",
                self.path,
                end,
            )

    def _tokenizer_padding(self) -> int | None:
        from transformers import AutoTokenizer

        try:
            found = AutoTokenizer.from_pretrained(self.path).pad_token_id
        except (OSError, ValueError, KeyError, ImportError):  # a folder may lack a tokenizer
            return None
        return None if found is None else int(found)


class RewardScorer(Scorer):
    """K numbers per sequence, from the hidden state of its last token, as the classification model itself reads them.

    A linear head is computed in float32 whatever the weights' dtype: bfloat16 has three digits.
    """

    def __init__(self, hf: nn.Module) -> None:
        super().__init__(hf)
        self.num_outputs = int(hf.config.num_labels)  # type: ignore[union-attr,arg-type]
        self._padding = int(hf.config.get_text_config().pad_token_id)  # type: ignore[union-attr,operator]
        caches = "use_cache" in inspect.signature(hf.forward).parameters
        self._options: dict[str, Any] = {"use_cache": False} if caches else {}
        for head in (getattr(hf, "score", None), getattr(hf, "classifier", None)):
            if isinstance(head, nn.Linear):
                head.forward = _Float32(head)  # type: ignore[method-assign,assignment]

    def score(self, tokens: Tensor, lengths: Tensor, **_: Any) -> Tensor:
        """[b, K] float32 of [b, t] int64 tokens, padded on the right with any id, and [b] lengths.

        A last token that is the model's padding token is passed over, as Hugging Face does.
        """
        mask = real(tokens, lengths)
        inputs = {"input_ids": tokens.masked_fill(~mask, self._padding), "attention_mask": mask.long()}
        scores: Tensor = self.hf(**inputs, **self._options).logits
        return scores.float()

    @torch.no_grad()
    def check(self, packing: bool, device: torch.device) -> None:
        """Runs the model once. A collective under ZeRO-3.

        Raises:
            ValueError: it does not give K numbers per row.
        """
        tokens = torch.ones(len(PROBE_LENGTHS), max(PROBE_LENGTHS), dtype=torch.int64, device=device)
        shape = self(tokens, torch.tensor(PROBE_LENGTHS, device=device)).shape
        wanted = (len(PROBE_LENGTHS), self.num_outputs)
        if tuple(shape) != wanted:
            raise ValueError(f"{type(self.hf).__name__} gives scores of shape {tuple(shape)}, wanted {wanted}")


class _Float32:
    """Stands for the `forward` of a linear layer."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        bias = None if self.layer.bias is None else self.layer.bias.float()
        return nn.functional.linear(x.float(), self.layer.weight.float(), bias)


class RewardModelWorker(ModelWorker):
    """See `ModelWorker`."""

    NAME = "reward_model"

    def _load(self, path: str, model: ModelConfig, trainable: bool) -> Scorer:
        return RewardFolder.inspect(path, model).scorer(path, model)

    def scale(self) -> RewardScale:
        """Of the model that `start` loaded."""
        return RewardFolder.inspect(self.spec.model_path, self.spec.model).scale

    def initialize(self, directory: str, attributes: Sequence[str] | None = None) -> RewardScale:
        """Loads another model, of any architecture, in the same process, with a new optimizer.

        Args:
            directory: a Hugging Face folder of a causal language model (new head), of a sequence classification model
                (its head is kept) or of `export`.
            attributes: names of the outputs; see `RewardFolder.inspect`.

        Returns:
            The RewardScale, which combines the outputs into one reward.

        Raises:
            ValueError: see `RewardFolder`. A folder that cannot be one is refused before the old model is given up.
        """
        folder = RewardFolder.inspect(directory, self.spec.model, attributes)
        self._build(directory, folder.scorer)
        return folder.scale
