"""Log-probs of tokens and entropies from logits. This is the only module that shifts by one.

All results are aligned with `tokens`: entry [b, t] belongs to the distribution that produced `tokens[b, t]`, that is to
`logits[b, t - 1]`; index 0 has no context and is 0.

Memory: the work runs over chunks of positions, forward and backward (the softmax is computed again, not stored), so
the only [B, T, V] tensors are the logits and their gradient, both in the logits' own dtype. `linear_logprobs` starts
one layer earlier and avoids these too: logits exist for only one chunk at a time, also in the backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from rlcore.ops.checks import at_least_float32, require_rank

# Elements of one chunk, 64 MiB in float32. Smaller inputs are a single chunk.
CHUNK_ELEMENTS = 1 << 24


def token_logprobs(
    logits: Float[Tensor, "B T V"], tokens: Int[Tensor, "B T"], temperature: float = 1.0
) -> Float[Tensor, "B T"]:
    """Log-probability of every token given the tokens before it.

        out[b, t] = log softmax(logits[b, t - 1] / temperature)[tokens[b, t]],   out[b, 0] = 0

    Args:
        logits: [B, T, V], any floating dtype; never modified.
        tokens: [B, T] integer ids in [0, V); padding needs a valid id too.
        temperature: the sampler's, above 0.

    Returns:
        [B, T] float32 (float64 for float64 logits), differentiable once with respect to `logits`.

    Raises:
        ValueError: wrong ranks or shapes, or a temperature that is not positive.
    """
    return _logprobs_and_entropy(logits, tokens, temperature, True, False)[0]


def entropy(logits: Float[Tensor, "B T V"], temperature: float = 1.0) -> Float[Tensor, "B T"]:
    """Entropy in nats of the distribution that produced each token.

        out[b, t] = -sum_v p_v log p_v,   p = softmax(logits[b, t - 1] / temperature),   out[b, 0] = 0

    Args:
        logits: [B, T, V], any floating dtype; -inf entries count as probability 0.
        temperature: above 0.

    Returns:
        [B, T] float32 (float64 for float64 logits), differentiable once with respect to `logits`.

    Raises:
        ValueError: wrong rank, or a temperature that is not positive.
    """
    return _logprobs_and_entropy(logits, None, temperature, False, True)[1]


def token_logprobs_and_entropy(
    logits: Float[Tensor, "B T V"], tokens: Int[Tensor, "B T"], temperature: float = 1.0
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Computes `token_logprobs` and `entropy` in one pass, with one softmax per chunk in the backward."""
    return _logprobs_and_entropy(logits, tokens, temperature, True, True)


def linear_logprobs(
    hidden: Float[Tensor, "B T H"],
    tokens: Int[Tensor, "B T"],
    head: Callable[[Tensor], Tensor] | Float[Tensor, "V H"],
    vocabulary: int,
    temperature: float = 1.0,
    wanted: Bool[Tensor, "B T"] | None = None,
    with_entropy: bool = False,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"] | None]:
    """`token_logprobs` and `entropy` of `logits = head(hidden)`, with logits for one chunk of positions at a time.

    With more than one chunk, the backward computes each chunk's logits again (one more product with the
    output layer's weights); peak memory does not depend on B T V. Up to CHUNK_ELEMENTS logits are computed at once.

    Args:
        hidden: [B, T, H], the input of the output layer, any floating dtype; never modified.
        tokens: [B, T] integer ids in [0, V); padding needs a valid id too.
        head: maps [n, H] to logits [n, V], each row independently; or the weight [V, H] of a layer without bias.
        vocabulary: V, which sets the size of a chunk.
        temperature: the sampler's, above 0.
        wanted: [B, T] bool, the entries to compute; all others are 0 and cost nothing. None: all but index 0.
        with_entropy: whether the second result is computed.

    Returns:
        [B, T] float32 log-probs (float64 for float64 logits), differentiable once with respect to `hidden` and the
        parameters of `head`, and entropies likewise or None.

    Raises:
        ValueError: wrong ranks or shapes, a temperature or vocabulary that is not positive.
    """
    require_rank(3, hidden=hidden)
    _require_matching(hidden, tokens, temperature, "hidden states")
    if vocabulary < 1:
        raise ValueError(f"vocabulary must be positive, it is {vocabulary}")
    if wanted is not None and wanted.shape != tokens.shape:
        raise ValueError(f"wanted has shape {tuple(wanted.shape)}, tokens {tuple(tokens.shape)}")
    layer = (lambda x: torch.nn.functional.linear(x, head)) if isinstance(head, Tensor) else head
    targets = torch.ones_like(tokens, dtype=torch.bool) if wanted is None else wanted.clone()
    targets[:, :1] = False  # no context
    index = targets.flatten().nonzero().squeeze(-1)  # positions of the entries; their logits are one position earlier
    states = hidden.flatten(0, 1).index_select(0, index - 1)
    ids = tokens.flatten().index_select(0, index).long()

    def score(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        out = _Chunked.apply(layer(x)[None], y[None], float(temperature), True, with_entropy, 0)  # type: ignore[no-untyped-call]
        return out[0][0], out[1][0]

    size = max(1, CHUNK_ELEMENTS // vocabulary)
    if index.numel() <= size:
        parts = [score(states, ids)]
    else:
        again = torch.is_grad_enabled()
        pairs = zip(torch.split(states, size), torch.split(ids, size), strict=True)
        parts = [checkpoint(score, x, y, use_reentrant=False) if again else score(x, y) for x, y in pairs]

    def spread(values: list[Tensor]) -> Tensor:
        flat = torch.cat(values)
        return flat.new_zeros(tokens.numel()).index_copy(0, index, flat).view(tokens.shape)

    return spread([p[0] for p in parts]), spread([p[1] for p in parts]) if with_entropy else None


def _require_matching(x: Tensor, tokens: Tensor, temperature: float, name: str) -> None:
    require_rank(2, tokens=tokens)
    if tokens.shape != x.shape[:2]:
        raise ValueError(f"tokens have shape {tuple(tokens.shape)}, {name} {tuple(x.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, it is {temperature}")


def _logprobs_and_entropy(
    logits: Tensor, tokens: Tensor | None, temperature: float, want_logprobs: bool, want_entropy: bool
) -> tuple[Tensor, Tensor]:
    require_rank(3, logits=logits)
    if tokens is None:
        tokens = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)
    _require_matching(logits, tokens, temperature, "logits")
    return _Chunked.apply(logits, tokens.long(), float(temperature), want_logprobs, want_entropy, 1)  # type: ignore[no-any-return,no-untyped-call]


def _chunks(rows: int, positions: int, vocabulary: int) -> Iterator[tuple[slice, slice]]:
    """Slices (rows, positions) that cover [0, rows) x [0, positions), each of at most CHUNK_ELEMENTS logits."""
    width = max(1, CHUNK_ELEMENTS // max(1, vocabulary))
    height = max(1, width // max(1, positions))
    for b in range(0, rows, height):
        for t in range(0, positions, width):
            yield slice(b, min(b + height, rows)), slice(t, min(t + width, positions))


class _Chunked(torch.autograd.Function):
    """`shift`: distance from logits to the entry they predict: 1, or 0 if the caller has aligned them."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Tensor, temperature: float, want_logprobs: bool, want_entropy: bool,
        shift: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        batch, length, vocabulary = logits.shape
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        logprobs, entropies, log_z = (torch.zeros(batch, length, dtype=dtype, device=logits.device) for _ in range(3))
        for rows, steps in _chunks(batch, max(0, length - shift), vocabulary):
            here = slice(steps.start + shift, steps.stop + shift)
            x = _scaled(logits[rows, steps], temperature)
            z = torch.logsumexp(x, -1)
            log_z[rows, here] = z
            if want_logprobs:
                logprobs[rows, here] = x.gather(-1, tokens[rows, here, None]).squeeze(-1) - z
            if want_entropy:
                entropies[rows, here] = torch.special.entr((x - z[..., None]).exp_()).sum(-1)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, tokens, log_z, entropies)
        ctx.temperature, ctx.shift = temperature, shift
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        """`d logp_y / dx_v = [v = y] - p_v` and `dH / dx_v = -p_v (log p_v + H)`, both over the temperature."""
        logits, tokens, log_z, entropies = ctx.saved_tensors
        if grad_logprobs is None and grad_entropy is None:
            return None, None, None, None, None, None
        grad = torch.zeros_like(logits)
        for rows, steps in _chunks(logits.shape[0], max(0, logits.shape[1] - ctx.shift), logits.shape[2]):
            here = slice(steps.start + ctx.shift, steps.stop + ctx.shift)
            logp = _scaled(logits[rows, steps], ctx.temperature) - log_z[rows, here, None]
            g = None if grad_logprobs is None else grad_logprobs[rows, here, None].to(logp.dtype)
            if grad_entropy is None:  # in place, here and below: each tensor is as large as a chunk
                assert g is not None
                out = logp.exp_().mul_(-g)
            else:
                p = logp.exp()
                # an impossible token has p = 0 and logp = -inf; its part of the gradient must be 0, not nan
                out = logp.add_(entropies[rows, here, None]).mul_(p).masked_fill_(p == 0, 0.0)
                out.mul_(-grad_entropy[rows, here, None].to(p.dtype))
                if g is not None:
                    out.addcmul_(p, g, value=-1)
            if g is not None:
                out.scatter_add_(-1, tokens[rows, here, None], g)
            grad[rows, steps] = out.div_(ctx.temperature).to(grad.dtype)
        return grad, None, None, None, None, None


def _scaled(chunk: Tensor, temperature: float) -> Tensor:
    x = at_least_float32(chunk)
    return x if temperature == 1.0 else x / temperature
