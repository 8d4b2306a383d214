"""The modules that DeepSpeed trains: a Hugging Face model with a head that gives numbers per token."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from actors.config.schema import ModelConfig
from actors.training import lora
from actors.training.model_folder import load_model
from rlcore.ops.logprobs import linear_logprobs, token_logprobs, token_logprobs_and_entropy

log = logging.getLogger(__name__)
PROBE_LENGTHS = (7, 4, 3)  # tokens of the rows that `check` looks at; packed, the last two share a block
# Differences allowed between two ways to one hidden state, as a share of the largest
SAME = {torch.float32: 1e-4, torch.float64: 1e-9}
SAME_LOW = 5e-2  # of half precision


class Scorer(nn.Module):
    """A Hugging Face model `hf` and a head on its hidden states, the subclass's `score`.

    A forward pass is a call of the module itself, under `check` too: ZeRO-3 gathers weights in the modules' hooks.
    `score` returns one tensor: ZeRO-3 readies the backward at every output that has a gradient. With two, a rank
    where the loss uses only one would gather in another order than the others, and all would deadlock.
    """

    KEEPS_MASTERS: ClassVar[bool] = False  # whether a folder may hold float32 master weights of it
    num_outputs: int | None = None  # of a row; None: one of each token

    def __init__(self, hf: nn.Module) -> None:
        super().__init__()
        self.hf = hf
        self._then: Callable[..., Any] = self.score

    def forward(self, *args: Any, **options: Any) -> Any:
        """`score`, or the probe that `check` has put in its place."""
        return self._then(*args, **options)

    def score(self, *args: Any, **options: Any) -> Any:
        raise NotImplementedError

    @property
    def backbone(self) -> Any:
        """The part below the output layer; `hf` itself where there is no such layer."""
        return getattr(self.hf, "base_model", self.hf)

    def hidden_states(self, tokens: Tensor, lengths: Tensor | None = None, packed: bool = False) -> Tensor:
        """Hidden states: the input of the output layer.

        Padding on the right needs no attention mask, because no real token attends to later positions.

        Args:
            tokens: [b, t] int64, padded on the right with any id.
            lengths: [b] int64, tokens of each row that are real; needed for packing.
            packed: put several rows into one sequence, see `pack`. Hugging Face models keep the rows apart by the
                positions, which restart in each; `check` verifies that this model does.

        Returns:
            [b, t, H] in the model's dtype. Padding means nothing; packed it is 0.
        """
        blocks = pack(tokens, lengths, self.varlen) if packed and lengths is not None else None
        if blocks is None:
            states: Tensor = self.backbone(input_ids=tokens, use_cache=False).last_hidden_state
            return states
        out: Tensor = self.backbone(**blocks.inputs, use_cache=False).last_hidden_state
        return blocks.unpack(out.flatten(0, 1), 0).view(*tokens.shape, -1)

    @property
    def varlen(self) -> bool:
        """True if the attention kernel supports packed rows (`cu_seqlens`), at a cost of the sum of squared row
        lengths.
        """
        return "flash" in str(getattr(self.hf.config, "_attn_implementation", ""))

    @torch.no_grad()
    def check(self, packing: bool, device: torch.device) -> None:
        """Determines at start how this model can be run. A collective under ZeRO-3.

        Raises:
            ValueError: `packing` is asked for and rows that are packed together see each other.
        """
        generator = torch.Generator().manual_seed(0)
        shape = (len(PROBE_LENGTHS), max(PROBE_LENGTHS))
        tokens = torch.randint(0, self.vocabulary, shape, generator=generator).to(device)
        try:
            self._then = self.probe
            self(tokens, torch.tensor(PROBE_LENGTHS, device=device), packing)
        finally:
            self._then = self.score

    def probe(self, tokens: Tensor, lengths: Tensor, packing: bool) -> None:
        if not packing:
            return
        alone, packed = self.hidden_states(tokens), self.hidden_states(tokens, lengths, packed=True)
        # with equal shapes, so that rounding is equal too: a row must not depend on the rows before it
        other = torch.cat([tokens[:-1].flip(1).roll(1, 1), tokens[-1:]])
        changed = self.hidden_states(other, lengths, packed=True)
        n = PROBE_LENGTHS[-1]
        apart = _close(changed[-1, :n], packed[-1, :n], share=0.01)
        equal = all(_close(packed[i, :n], alone[i, :n]) for i, n in enumerate(PROBE_LENGTHS))
        if not (apart and equal):
            kind = getattr(self.hf.config, "_attn_implementation", "?")
            raise ValueError(
                f"engine.packing=true does not work with {type(self.hf).__name__} and model.attention={kind}: rows of "
                "one sequence see each other or lose their positions. Set engine.packing=false"
            )

    @property
    def vocabulary(self) -> int:
        return int(self.hf.config.get_text_config().vocab_size)  # type: ignore[union-attr,operator]


class CausalScorer(Scorer):
    """Log-probs and entropies of tokens under a causal language model.

    Logits of all positions are never in memory: the output layer runs over chunks (`linear_logprobs`), all within one
    call of its module, so that ZeRO-3 gathers its weight once for the forward and once for the backward. Where `check`
    finds that the model does more between hidden states and logits than that layer (a soft cap, a scale), the plain
    forward is used, which holds [b, t, V] in the dtype of the output layer.

    Args:
        float32_head: the output layer computes in float32, from its weight in the model's dtype.

    Raises:
        ValueError: `float32_head` for a model without a plain linear output layer.
    """

    KEEPS_MASTERS = True

    def __init__(self, hf: nn.Module, float32_head: bool = False) -> None:
        super().__init__(hf)
        self.chunked = False  # until `check`
        find = getattr(hf, "get_output_embeddings", None)
        self._find_head: Callable[[], nn.Module | None] = find if find is not None else lambda: None
        head = self._find_head()
        if float32_head and type(head) is not nn.Linear:
            raise ValueError(
                f"model.float32_head=true needs a linear output layer without adapters; {type(hf).__name__} has "
                f"{type(head).__name__}: set it to false, or leave the layer out of model.lora.targets"
            )
        if head is not None:
            head.forward = _Head(head, float32_head)

    def score(
        self,
        tokens: Tensor,
        lengths: Tensor | None = None,
        temperature: float = 1.0,
        first: int = 1,
        entropy: bool = False,
        packed: bool = False,
    ) -> Tensor:
        """Log-probs of the tokens from column `first` on, and entropies when asked for; columns before it are 0.

        Args:
            tokens: [b, t] int64, padded on the right with any id.
            lengths: [b] int64, tokens of each row that are real; None: all of them.
            first: of the columns wanted, 1 <= first <= t. Logits of earlier positions are not computed.
            packed: see `hidden_states`.

        Returns:
            [b, t] float32 log-probs, or [2, b, t] with entropies; 0 behind a row's length.
        """
        wanted = torch.arange(tokens.shape[1], device=tokens.device)[None] >= first
        wanted = wanted.expand(tokens.shape) if lengths is None else wanted & real(tokens, lengths)
        if not self.chunked:
            return self._score_plain(tokens, lengths, temperature, wanted, entropy, packed)
        hidden = self.hidden_states(tokens, lengths, packed)

        def chunks(x: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
            found = linear_logprobs(x, tokens, head, self.vocabulary, temperature, wanted, entropy)
            return torch.stack(found) if entropy else found[0]  # type: ignore[arg-type]

        out: Tensor = self._find_head()(hidden, then=chunks)  # type: ignore[misc]
        return out

    def _score_plain(
        self, tokens: Tensor, lengths: Tensor | None, temperature: float, wanted: Tensor, entropy: bool, packed: bool
    ) -> Tensor:
        blocks = pack(tokens, lengths, self.varlen) if packed and lengths is not None else None
        inputs = {"input_ids": tokens} if blocks is None else blocks.inputs
        logits = self.hf(**inputs, use_cache=False).logits
        ids = inputs["input_ids"]
        if entropy:
            out = torch.stack(token_logprobs_and_entropy(logits, ids, temperature))
        else:
            out = token_logprobs(logits, ids, temperature)
        if blocks is not None:
            flat = out.flatten(-2)
            out = blocks.unpack(flat, flat.dim() - 1).view(*out.shape[:-2], *tokens.shape)
        return torch.where(wanted, out, 0.0)

    def probe(self, tokens: Tensor, lengths: Tensor, packing: bool) -> None:
        super().probe(tokens, lengths, packing)
        self.chunked = self._head_is_all(tokens)
        if not self.chunked:
            log.warning(
                "%s does more than its output layer between hidden states and logits: logits of whole micro-batches "
                "are held in memory",
                type(self.hf).__name__,
            )

    def _head_is_all(self, tokens: Tensor) -> bool:
        """True if the logits equal the output layer's result on `hidden_states`.

        The layer is replaced to return large random numbers, because a soft cap has no visible effect on the small
        logits of an untrained model.
        """
        head = self._find_head()
        if head is None or self.backbone is self.hf or not isinstance(head.forward, _Head):
            return False
        seen: list[Tensor] = []
        given = 50 * torch.randn(*tokens.shape, self.vocabulary, generator=torch.Generator().manual_seed(1))

        def replace(x: Tensor) -> Tensor:
            seen.append(x)
            return given.to(x.device, x.dtype)

        head.forward.instead = replace
        try:
            logits = self.hf(input_ids=tokens, use_cache=False).logits
        finally:
            head.forward.instead = None
        if len(seen) != 1 or logits.shape != given.shape:
            return False
        return torch.equal(logits.float(), given.to(seen[0].device, seen[0].dtype).float()) and _close(
            self.hidden_states(tokens), seen[0]
        )


def load_causal(path: str, model: ModelConfig, trainable: bool) -> CausalScorer:
    """A causal language model, with new adapters where `model.lora` asks for some. A collective with adapters.

    Args:
        trainable: a frozen model is the reference: it has no adapters.

    Raises:
        ValueError: see `load_model`.
    """
    module = load_model(path, model)
    if model.lora.rank and trainable:
        seed = [torch.initial_seed()]
        dist.broadcast_object_list(seed)
        lora.add_adapters(module, model.lora, seed[0])
    return CausalScorer(module, model.float32_head)


class _Head:
    """Stands for the `forward` of an output layer: a computation over its weights within one call of the module."""

    def __init__(self, layer: nn.Module, float32: bool) -> None:
        self.plain: Callable[[Tensor], Tensor] = layer.forward
        self.layer: Any = layer if float32 else None
        self.instead: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor, then: Callable[..., Any] | None = None) -> Any:
        if self.instead is not None:
            return self.instead(x)
        compute = self.plain
        if self.layer is not None:  # one copy for all chunks, which adds up their gradients in float32
            weight, bias = self.layer.weight.float(), self.layer.bias
            bias = None if bias is None else bias.float()
            compute = lambda states: nn.functional.linear(states.float(), weight, bias)  # noqa: E731
        return compute(x) if then is None else then(x, compute)


def real(tokens: Tensor, lengths: Tensor) -> Tensor:
    """[b, t] bool, True at tokens that are no padding."""
    return torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]


@dataclass(frozen=True)
class Packed:
    """Rows of a padded [b, t] batch, rearranged into n blocks of L tokens."""

    inputs: dict[str, Tensor]  # `input_ids` and `position_ids`, [n, L] int64
    padded: Tensor  # [N] int64, the place of each real token in the flattened [b, t] batch
    packed: Tensor  # [N] int64, its place in the flattened [n, L] blocks
    size: int  # b * t

    def unpack(self, values: Tensor, dim: int) -> Tensor:
        """`values` with n * L entries along `dim`, put back into b * t entries; padding is 0."""
        shape = [*values.shape[:dim], self.size, *values.shape[dim + 1 :]]
        return values.new_zeros(shape).index_copy(dim, self.padded, values.index_select(dim, self.packed))


def pack(tokens: Tensor, lengths: Tensor, varlen: bool = False) -> Packed | None:
    """Packs rows into blocks as long as the longest row (first fit, longest rows first).

    Attention over a block costs the square of its length, unless the kernel takes the borders of the rows (`varlen`):
    then all rows are one block without any padding. Otherwise a block is never longer than a padded row, so packing
    never costs more than padding.

    Args:
        tokens: [b, t] int64.
        lengths: [b] int64, each at least 1.

    Returns:
        None when every row needs a separate block, so that packing saves nothing.
    """
    sizes = lengths.tolist()
    width = sum(sizes) if varlen else max(sizes)
    filled: list[int] = []
    starts = [0] * len(sizes)
    for row in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        block = next((k for k, used in enumerate(filled) if used + sizes[row] <= width), len(filled))
        if block == len(filled):
            filled.append(0)
        starts[row] = block * width + filled[block]
        filled[block] += sizes[row]
    if len(filled) == len(sizes):
        return None
    padded = real(tokens, lengths).flatten().nonzero().squeeze(-1)
    columns = padded % tokens.shape[1]
    packed = torch.tensor(starts, device=tokens.device)[padded // tokens.shape[1]] + columns
    empty = tokens.new_zeros(len(filled) * width)  # position 0 at every padding token: a separate sequence
    inputs = {
        "input_ids": empty.index_copy(0, packed, tokens.flatten()[padded]).view(-1, width),
        "position_ids": empty.index_copy(0, packed, columns).view(-1, width),
    }
    return Packed(inputs, padded, packed, tokens.numel())


def _close(x: Tensor, y: Tensor, share: float = 1.0) -> bool:
    if x.shape != y.shape:
        return False
    limit = share * SAME.get(x.dtype, SAME_LOW) * float(y.abs().max())
    return bool((x.float() - y.float()).abs().max() <= limit)
