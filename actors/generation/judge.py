"""A frozen vLLM engine as judge: `rlcore.rewards.judge.prompts.Completer` over a group of actors.

Its weights come from its folder and are never synced. A call blocks one actor thread until its prompts are done; calls
run side by side in the engine's batch.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from actors.config.schema import RolloutConfig
from actors.generation.rollout import RolloutWorker
from actors.generation.vllm_engine import Request, Sample
from actors.placement.group import ActorError, ActorGroup
from actors.placement.restarts import RestartPolicy
from actors.training.models import load_tokenizer
from rlcore.interfaces import Sampling
from rlcore.problems import UserError
from rlcore.rewards.judge.config import JudgeEngineConfig
from rlcore.rewards.judge.endpoint import log_sum
from rlcore.rewards.judge.prompts import Messages, Reply, plain
from rlcore.types import Status

CONCURRENCY = 4  # calls at the same time in one actor
SLACK_S = 60.0


class JudgeError(UserError, ValueError):
    """The settings of a judge are invalid."""


class JudgeWorker(RolloutWorker):
    """One vLLM engine. `complete` may be called from several threads."""

    def complete(
        self, call_id: str, requests: Sequence[Request], sampling: Sampling, allowed: Sequence[int], timeout_s: float
    ) -> dict[int, Sample]:
        """Answers by request index; unfinished ones are dropped at the deadline.

        Args:
            allowed: see `submit`.
        """
        ends_at = time.monotonic() + timeout_s
        self.submit(call_id, requests, sampling, allowed)
        answers: dict[int, Sample] = {}
        while len(answers) < len(requests) and (left := ends_at - time.monotonic()) > 0:
            answers |= {group.index: group.samples[0] for group in self.collect(left, call_id).groups}
        if len(answers) < len(requests):
            self.abort(call_id)
        return answers


class JudgeEngine:
    """`Completer` over a started group, created by `start_judge`. A dead engine is restarted and its request repeated.
    """

    def __init__(
        self,
        group: ActorGroup[JudgeWorker],
        tokenizer: Any,
        config: JudgeEngineConfig,
        max_model_len: int,
        restarts: RestartPolicy,
    ) -> None:
        self.group, self.tokenizer, self.config, self.max_model_len = group, tokenizer, config, max_model_len
        self._restarts, self._calls = restarts, itertools.count()
        has = getattr(tokenizer, "chat_template", None) is not None
        if config.chat_template and not has:
            raise JudgeError(f"reward.judge.engine.chat_template=true, but the tokenizer of {config.path} has none")
        self._chat = has if config.chat_template is None else config.chat_template

    def complete(
        self,
        prompts: Sequence[str | Messages],
        max_tokens: int,
        temperature: float = 0.0,
        choices: Sequence[str] = (),
    ) -> list[Reply]:
        """See `Completer.complete`. A prompt that leaves no room for its answer gets an error as its reply.

        Raises:
            JudgeError: a choice is not a single token of the judge's tokenizer.
            WorkerFailed: an engine keeps failing, or a request is one that no engine can serve.
        """
        tokens = [self._tokens(choice) for choice in choices]
        allowed = sorted({t for ids in tokens for t in ids})
        budget = 1 if choices else max_tokens
        requests = [Request(i, f"judged-{i}", tuple(ids)) for i, ids in enumerate(map(self._encode, prompts))]
        fitting = [r for r in requests if 0 < len(r.token_ids) <= self.max_model_len - budget]
        sampling = Sampling(1, budget, temperature=0.0 if choices else temperature)
        engines = len(self.group)
        shares = [(rank, fitting[rank::engines]) for rank in range(engines) if fitting[rank::engines]]
        answers: dict[int, Sample] = {}
        with ThreadPoolExecutor(max(1, len(shares))) as pool:
            for part in pool.map(lambda share: self._ask(share[0], share[1], sampling, allowed), shares):
                answers |= part
        fits = {r.index for r in fitting}
        return [self._reply(r, answers.get(r.index), r.index in fits, choices, tokens, budget) for r in requests]

    def limit_s(self, num_prompts: int) -> float:
        return (self.config.deadline_s + SLACK_S) * (1 + self.config.max_restarts)

    def _ask(self, rank: int, share: list[Request], sampling: Sampling, allowed: list[int]) -> dict[int, Sample]:
        limit = self.config.deadline_s
        while True:
            call, starts = f"judge-{next(self._calls)}", self._restarts.starts(rank)
            try:
                answers = self.group.one(
                    rank, JudgeWorker.complete, call, share, sampling, allowed, limit,
                    timeout_s=limit + SLACK_S, phase="judge",
                )  # fmt: skip
            except ActorError as error:
                self._restarts.recover({rank: error}, {rank: starts})
            else:
                self._restarts.served(rank)
                return answers

    def _encode(self, prompt: str | Messages) -> list[int]:
        if not self._chat:
            return list(self.tokenizer([plain(prompt)], add_special_tokens=True)["input_ids"][0])
        talk = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        options = self.config.chat_options
        text = self.tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True, **options)
        return list(self.tokenizer([text], add_special_tokens=False)["input_ids"][0])

    def _tokens(self, choice: str) -> list[int]:
        """Tokens of the choice, with and without a leading space."""
        encoded = self.tokenizer([choice, f" {choice}"], add_special_tokens=False)["input_ids"]
        single = sorted({ids[0] for ids in encoded if len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id})
        if not single:
            raise JudgeError(
                f"{choice!r} is {len(encoded[0])} tokens of the judge {self.config.path}: a choice must be one. Narrow "
                "reward.judge.scale (1 to 5), or set reward.judge.reading.how=text"
            )
        return single

    def _reply(
        self,
        request: Request,
        answer: Sample | None,
        fits: bool,
        choices: Sequence[str],
        tokens: Sequence[Sequence[int]],
        budget: int,
    ) -> Reply:
        if not fits:
            return Reply(
                status=Status.ERROR,
                error=f"the judge's prompt has {len(request.token_ids)} tokens and its answer up to {budget}; the "
                f"judge takes {self.max_model_len}: raise reward.judge.engine.max_model_len",
            )
        if answer is None:
            return Reply(
                status=Status.TIMEOUT,
                error=f"no answer within {self.config.deadline_s:g} s (reward.judge.engine.deadline_s)",
            )
        if not choices:
            return Reply(answer.text, finish_reason=answer.finish_reason)
        logprobs = tuple(log_sum([answer.choices[t] for t in ids if t in answer.choices]) for ids in tokens)
        return Reply(choices[max(range(len(choices)), key=logprobs.__getitem__)], logprobs=logprobs)


def start_judge(
    group: ActorGroup[JudgeWorker],
    config: JudgeEngineConfig,
    device: str,
    threads: int = 1,
    seed: int = 0,
    timeout_s: float = 600.0,
    message: Callable[[str], None] = lambda text: None,
) -> JudgeEngine:
    """Starts the engines of a group (made with `max_concurrency` CONCURRENCY) on the judge's folder.

    Args:
        device: "cpu" or "cuda".
        threads: OpenMP threads of each engine; CPU only.
        timeout_s: of the start of an engine.
        message: reports restarts.

    Raises:
        JudgeError, ModelError: no path, no tokenizer, or settings that do not go together.
        ActorError: an engine did not start.
    """
    if not config.path:
        raise JudgeError("reward.judge.engine.path is not set: name the judge's model folder or hub id")
    path = str(Path(config.path).expanduser()) if Path(config.path).expanduser().is_dir() else config.path
    tokenizer = load_tokenizer(path, config.trust_remote_code)
    length = min(config.max_model_len, _longest(path))
    # never synced: weights come from the folder, and ties may stay tied
    extra = {"load_format": "auto", "hf_overrides": {}, "trust_remote_code": config.trust_remote_code} | config.extra
    rollout = RolloutConfig(
        tensor_parallel_size=config.tensor_parallel_size,
        max_num_seqs=config.max_num_seqs,
        gpu_memory_utilization=config.gpu_memory_utilization,
        cpu_kv_cache_gib=config.cpu_kv_cache_gib,
        enforce_eager=config.enforce_eager,
        extra=extra,
    )

    def arguments(rank: int) -> tuple[Any, ...]:
        return (path, rollout, device, config.dtype, length, threads, seed + rank)

    def restart(ranks: Sequence[int]) -> None:
        group.restart(ranks, JudgeWorker.start, arguments, timeout_s)

    calls = [arguments(rank) for rank in range(len(group))]
    group.scatter(JudgeWorker.start, calls, timeout_s=timeout_s, phase="start judge")
    key = f"reward.judge.engine.max_restarts={config.max_restarts}"
    restarts = RestartPolicy(group, restart, config.max_restarts, key, message)
    return JudgeEngine(group, tokenizer, config, length, restarts)


def _longest(path: str) -> int:
    """Positions of the model of a folder; no limit if its config has none."""
    file = Path(path) / "config.json"
    positions = json.loads(file.read_text()).get("max_position_embeddings") if file.is_file() else None
    return positions if isinstance(positions, int) else 2**62
