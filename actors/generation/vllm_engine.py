"""vLLM's in-process engine with calls of many groups, weight updates between two steps, and weight versions.

No threads here: `actors.generation.rollout` owns the one that steps it. In-flight requests survive a weight update
without a pause: they continue with the tokens they have, and with their KV cache unless it is recomputed, and each
token is labelled with the version that produced it. Requests submitted after an update never read KV made by older
weights.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from actors.generation.vllm_model import adapt_engine
from actors.generation.vllm_settings import build_engine, sampling_parameters
from rlcore.interfaces import Sampling
from rlcore.types import Float32, Int32

GPU_RESERVE_BYTES = 1 << 30  # left free where a second set of weights waits on the GPU


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt of a call. `index` comes back with its samples; it is unique within the call."""

    index: int
    uid: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One response of T tokens, the end-of-sequence token included when it was sampled."""

    token_ids: Int32  # [T]
    logprobs: Float32  # [T] of the sampled tokens, after temperature
    versions: Int32  # [T] weight version that produced each token
    finish_reason: str  # "stop" | "length"
    text: str  # all tokens decoded, a stop string included, special tokens left out
    choices: Mapping[int, float] = field(default_factory=dict)  # log-probs of the allowed tokens at the first position


@dataclass(frozen=True, slots=True)
class Finished:
    """All samples of one prompt, in sampling order."""

    call_id: str
    index: int
    samples: list[Sample]
    begun_version: int = -1  # weight version when the prompt was submitted


@dataclass(slots=True)
class PendingGroup:
    """A group under way, and vLLM's output once it is done."""

    call_id: str
    index: int
    version: int  # when it was submitted
    allowed: tuple[int, ...]  # the only tokens that are generated; empty: all are
    marks: dict[int, list[tuple[int, int]]]  # sample -> (tokens it had, version that takes over), in order
    output: Any = None


def label_versions(num_tokens: int, first: int, marks: Sequence[tuple[int, int]]) -> Int32:
    """[num_tokens] versions of a sample submitted under `first`; each mark is (tokens so far, version from there on).

    >>> label_versions(4, 7, [(3, 8)]).tolist()
    [7, 7, 7, 8]
    """
    versions = np.full(num_tokens, first, dtype=np.int32)
    for start, version in marks:
        versions[start:] = version
    return versions


class VllmEngine:
    """One vLLM engine. With dummy weights it cannot sample until the first update; those of a folder are version 0. Use
    from one thread only.

    Args:
        arguments: of `engine_arguments`.
        device: "cpu" or "cuda".
        recompute: after an update the KV cache of running requests is computed again, with the new weights.
    """

    def __init__(self, arguments: dict[str, Any], device: str, recompute: bool = False) -> None:
        self.groups: dict[str, PendingGroup] = {}  # vLLM request id -> group under way
        dummy = arguments["load_format"] == "dummy"
        self.version = -1 if dummy else 0  # of the loaded weights
        self.unusable = "no weights were ever sent to it" if dummy else ""  # reason why it cannot sample; "" if it can
        self.asleep = False
        self.update: tuple[int, float] | None = None  # version and time limit of the update under way
        self._broken = False  # vLLM has not closed its side of an update that broke off
        self._staged = False  # the update under way waits for its last bucket, and sampling continues
        self._begun_at, self._update_bytes = 0.0, 0  # of the update under way, or the last one
        self._transport, self._device, self._limit = "", device, arguments["max_model_len"]
        self._recompute = recompute
        self._llm = build_engine(arguments)
        self._rpc(adapt_engine)
        self.tokenizer = self._llm.get_tokenizer()

    # ---- sampling

    def can_step(self) -> bool:
        waits = self.update is not None and not self._staged
        return bool(self.groups) and not self.unusable and not waits and not self.asleep

    def step(self) -> list[PendingGroup]:
        """One forward pass over the batch; the groups that are complete with it."""
        done = []
        for output in self._llm.step():
            if output.finished and (group := self.groups.pop(output.request_id, None)) is not None:
                group.output = output
                done.append(group)
        return done

    def submit(
        self, call_id: str, requests: Sequence[Request], sampling: Sampling, allowed: Sequence[int] = ()
    ) -> None:
        """See `RolloutWorker.submit`."""
        if self.unusable:
            raise RuntimeError(f"cannot sample: {self.unusable}")
        if self.asleep:
            raise RuntimeError("cannot sample: the engine sleeps; wake it first")
        names = [f"{call_id}/{request.index}" for request in requests]
        in_use = set(names) & self.groups.keys()
        if in_use or len(set(names)) < len(names):
            raise ValueError(f"call {call_id!r}: an index is used twice ({sorted(in_use)[:3] or 'within the call'})")
        for request in requests:
            if not 0 < (count := len(request.token_ids)) < self._limit:
                raise ValueError(
                    f"prompt {request.uid!r} has {count} tokens; the engine takes 1 to {self._limit - 1}: shorten or "
                    "drop it (data.max_prompt_tokens), or raise rollout.max_model_len"
                )
        if sampling.seed is not None and not self.groups:
            self._reset_prefix_cache()
            self._rpc(_reseed, sampling.seed)
        self._add(names, requests, sampling_parameters(sampling, allowed))
        for name, request in zip(names, requests, strict=True):
            self.groups[name] = PendingGroup(call_id, request.index, self.version, tuple(allowed), defaultdict(list))

    def _add(self, names: list[str], requests: Sequence[Request], parameters: Any) -> None:
        salt = str(self.version)  # keys the prefix cache: blocks made by other weights are never hit
        added: list[str] = []
        try:
            for name, request in zip(names, requests, strict=True):
                prompt = {"prompt_token_ids": list(request.token_ids), "cache_salt": salt}
                self._llm.add_request(name, prompt, parameters)
                added.append(name)
        except BaseException:
            self._llm.abort_request(added)
            raise

    def unfinished(self) -> int:
        """Samples that run or wait."""
        return int(self._llm.get_num_unfinished_requests())

    def abort(self, call_ids: Sequence[str]) -> None:
        names = [name for name, group in self.groups.items() if group.call_id in call_ids]
        for name in names:
            del self.groups[name]
        self._llm.abort_request(names)

    def records(self, groups: Sequence[PendingGroup]) -> list[Finished]:
        """Converts finished groups to plain arrays. Uses only the groups and the tokenizer."""
        outputs = [output for group in groups for output in group.output.outputs]
        texts = iter(self.tokenizer.batch_decode([list(o.token_ids) for o in outputs], skip_special_tokens=True))
        return [
            Finished(g.call_id, g.index, [_sample(o, next(texts), g) for o in g.output.outputs], g.version)
            for g in groups
        ]

    # ---- weights

    def init_weights(self, info: dict[str, Any]) -> None:
        """Connects to the trainer; see `actors.weights.vllm_side.InitInfo`."""
        self._rpc("init_weight_transfer_engine", init_info=info)
        self._transport = info["transport"]

    def begin_update(self, version: int, deadline_s: float) -> None:
        """With requests under way, and room for a second set of weights, buckets wait until the last has come."""
        if self.update is not None:
            raise RuntimeError(f"the update to version {self.update[0]} is still under way; abort it first")
        if self._broken:
            self._close_broken_update()
        self._begun_at = time.monotonic()
        self.update = (version, self._begun_at + deadline_s)
        self._staged = bool(self.groups) and not self.unusable and self._has_room()
        self._update_bytes = 0
        self._update_rpc("start_weight_update")

    def _has_room(self) -> bool:
        """True if a second set of weights fits next to the model, by the size of the last update."""
        if self._device == "cpu":
            return True
        free, _ = torch.cuda.mem_get_info()
        return 0 < self._update_bytes < free - GPU_RESERVE_BYTES

    def load_bucket(self, payload: dict[str, Any]) -> None:
        _, ends_at = self._need_update()
        self._update_bytes += payload["num_bytes"]
        more = {"staged": self._staged, "seconds": ends_at - time.monotonic()}
        self._update_rpc("update_weights", update_info=payload | more)

    def finish_update(self, version: int) -> float:
        """Seconds for which requests under way had to wait."""
        begun, _ = self._need_update()
        if version != begun:
            raise ValueError(f"finish_update({version}) during the update to version {begun}")
        paused_at = time.monotonic() if self._staged else self._begun_at
        self._staged = False  # from here on the old weights are overwritten
        self._update_rpc("update_weights", update_info={"last": True})
        self._update_rpc("finish_weight_update")
        if hasattr(self._llm, "set_weight_version"):  # vLLM 0.26 has none
            self._llm.set_weight_version(str(version))
        # note how many tokens every running sample has, to distinguish its later ones
        for state in self._llm.output_processor.request_states.values():
            if (group := self.groups.get(state.external_req_id)) is not None:
                group.marks[state.request_index].append((state.detokenizer.num_output_tokens(), version))
        self.version, self.unusable, self.update = version, "", None
        if self._recompute or not self._llm.has_unfinished_requests():
            self._reset_prefix_cache()  # otherwise blocks are in use, and their salt keeps them from later requests
        return time.monotonic() - paused_at if self.groups else 0.0

    def weight_checksums(self) -> dict[str, str]:
        """vLLM's SHA-256 of each weight, by rank of the worker and name."""
        workers = self._llm.collective_rpc("compute_weight_checksums")
        return {name: digest for checksums in workers for name, digest in checksums.items()}

    def break_update(self, why: str) -> None:
        """Marks the update as broken: with partly loaded weights sampling is blocked until a complete update."""
        self.update, self._broken = None, True
        if self._staged:
            self._staged = False
            return
        self.version = -1
        self.unusable = f"{why}; its weights are a mixture until a whole update is sent"

    def check_deadline(self) -> bool:
        """Breaks an update after its deadline; returns True if so."""
        if self.update is None or time.monotonic() <= self.update[1]:
            return False
        self.break_update(f"the weight update to version {self.update[0]} was not finished before its deadline")
        return True

    def _need_update(self) -> tuple[int, float]:
        if self.update is None:
            raise RuntimeError(f"no weight update is under way; {self.unusable or 'call begin_update first'}")
        return self.update

    def _update_rpc(self, method: str, **kwargs: Any) -> None:
        version, _ = self._need_update()
        try:
            self._rpc(method, **kwargs)
        except BaseException as error:
            self.break_update(f"the weight update to version {version} failed ({method}: {error})")
            raise

    def _close_broken_update(self) -> None:
        """Resets vLLM to the state without an update; a partly failed one must be opened again to be closed."""
        try:
            self._rpc("finish_weight_update")
        except Exception:
            self._rpc("start_weight_update")
            self._rpc("finish_weight_update")
        self._broken = False

    def _reset_prefix_cache(self) -> None:
        """With requests under way they are preempted: their next step computes prompt and tokens again."""
        if not self._llm.reset_prefix_cache(reset_running_requests=bool(self.groups)):
            raise RuntimeError("vLLM could not empty its prefix cache")

    # ---- the rest

    def sleep(self, level: int) -> None:
        if self.groups:
            raise RuntimeError(f"cannot sleep with {len(self.groups)} groups under way; collect or abort them first")
        if level < 1 or self.asleep:
            return
        self._llm.sleep(level)
        self.asleep = True
        if level >= 2 and self._device == "cuda":
            self.version, self.unusable = -1, "its weights were dropped by sleep(2); send them again"

    def wake(self, tags: list[str] | None) -> None:
        if self.asleep:
            self._llm.wake_up(tags)
            self.asleep = self._llm.is_sleeping()

    def describe(self) -> dict[str, Any]:
        import psutil
        import vllm

        cache = self._llm.vllm_config.cache_config
        return {
            "pid": os.getpid(),
            "node": socket.gethostname(),
            "vllm": vllm.__version__,
            "device": self._device,
            "transport": self._transport,
            "version": self.version,
            "max_model_len": self._limit,
            "kv_cache_tokens": (cache.num_gpu_blocks or 0) * cache.block_size,
            "running": self.unfinished(),
            "rss_bytes": psutil.Process().memory_info().rss,
            "gpu_bytes": torch.cuda.memory_allocated() if self._device == "cuda" else 0,
        }

    def shutdown(self) -> None:
        self._llm.engine_core.shutdown()

    def _rpc(self, method: str | Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._llm.collective_rpc(method, args=args, kwargs=kwargs)


def _reseed(worker: Any, seed: int) -> None:
    """Runs in every vLLM worker process: all of its global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _sample(output: Any, text: str, group: PendingGroup) -> Sample:
    if output.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended a sample of {group.call_id}/{group.index} with {output.finish_reason!r}")
    logprobs, choices = output.logprobs.logprobs, dict[int, float]()  # flat lists: one entry per position
    if group.allowed:  # or more
        logprobs = [output.logprobs[i][token].logprob for i, token in enumerate(output.token_ids)]
        choices = {token: float(found.logprob) for token, found in output.logprobs[0].items() if token in group.allowed}
    return Sample(
        token_ids=np.array(output.token_ids, dtype=np.int32),
        logprobs=np.array(logprobs, dtype=np.float32),
        versions=label_versions(len(output.token_ids), group.version, group.marks.get(output.index, ())),
        finish_reason=output.finish_reason,
        text=text,
        choices=choices,
    )
