"""Host of verifier processes on one node: a plain class that scores groups of samples through a `VerifierPool`."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rlcore.rewards.composition import Item, Term
from rlcore.rewards.config import OnFailure, RewardConfig
from rlcore.rewards.pool import VerifierPool
from rlcore.rewards.registry import RewardError
from rlcore.types import Group, Prompt, RewardInput, RewardResult

CODE, MATH = "code", "math"
BASES = {"target_length": None, "cosine_length": MATH}  # rewards that call another reward -> their default


@dataclass(frozen=True, slots=True)
class GroupInput:
    """A group as verifiers read it: text, and no arrays of tokens, which would fill the network."""

    rewards: tuple[str, ...]  # names of the row
    samples: list[RewardInput]

    @classmethod
    def of(cls, group: Group) -> GroupInput:
        prompt = group.prompt
        samples = [
            RewardInput(
                prompt=prompt.text,
                response=t.text,
                reference=prompt.reference,
                finish_reason=t.finish_reason,
                num_response_tokens=t.num_response_tokens,
                metadata=prompt.metadata,
            )
            for t in group.trajectories
        ]
        return cls(prompt.rewards, samples)


class VerifierWorker:
    """Scores groups: each row by the rewards that it names, otherwise by the terms of the config."""

    def __init__(self) -> None:
        self._pool: VerifierPool | None = None
        self._terms: tuple[Term, ...] = ()
        self._by_name: dict[str, Term] = {}
        self._sandbox: dict[str, Any] = {}
        self._math: dict[str, Any] = {}
        self._none_counts = True

    def start(self, config: RewardConfig, cwd: str) -> None:
        """Starts the processes; relative reward paths start at `cwd`.

        Raises:
            RewardError: duplicate term names.
            ValueError: invalid limits.
        """
        self.shutdown()
        self._terms, self._by_name = terms_of(config)
        self._sandbox, self._math = asdict(config.sandbox), {"answer": config.math.answer.value}
        self._none_counts = config.on_failure is OnFailure.fail
        self._pool = VerifierPool(
            num_processes=config.processes_per_worker,
            timeout_s=config.timeout_s,
            memory_limit_mb=config.memory_limit_mb,
            cwd=cwd,
            imports=[term.fn for term in self._terms if term.fn],
        )

    def score(self, groups: list[GroupInput]) -> list[list[RewardResult]]:
        """Results by group and sample, in order. Blocks until all are finished."""
        pool = self._started()
        futures = [pool.submit([self._item(g.rewards, sample) for sample in g.samples]) for g in groups]
        return [future.result() for future in futures]

    def smoke(self, prompt: Prompt) -> RewardResult:
        """Scores one row with its own reference as the response, before anything is trained.

        Raises:
            RewardError: a reward cannot be found or loaded, raises, hangs, or returns no number; None is an error only
                with `on_failure: fail`.
        """
        response = prompt.reference or ""
        sample = RewardInput(prompt.text, response, prompt.reference, metadata=prompt.metadata)
        return self._started().smoke([self._item(prompt.rewards, sample)], self._none_counts)[0]

    def describe(self) -> dict[str, Any]:
        """`pid`, `host`, and `children`: the pids of the zygote and the verifier processes."""
        children = self._pool.pids() if self._pool else {}
        pids = [children["zygote"], *children["workers"]] if children else []
        return {"pid": os.getpid(), "host": socket.gethostname(), "children": pids}

    def shutdown(self) -> None:
        """Kills and reaps the processes. Safe to call twice, or before `start`."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _started(self) -> VerifierPool:
        if self._pool is None:
            raise RuntimeError("the verifier worker is not started: call start(config, cwd) first")
        return self._pool

    def _item(self, rewards: Sequence[str], sample: RewardInput) -> Item:
        # Other names are rewards of the registry, resolved in the processes.
        named = tuple(self._by_name.get(name) or Term(name) for name in rewards)
        return Item(tuple(self._configured(term) for term in named or self._terms), sample)

    def _configured(self, term: Term) -> Term:
        """The term with the config's settings for `code` and `math` (also as the base of another reward); options of
        the term take precedence.
        """
        if term.fn:
            return term
        if term.name == CODE:
            return replace(term, options={"sandbox": self._sandbox, **term.options})
        if term.name == MATH:
            return replace(term, options={**self._math, **term.options})
        if term.name in BASES and term.options.get("base", BASES[term.name]) == MATH:
            base = {**self._math, **(term.options.get("base_options") or {})}
            return replace(term, options={**term.options, "base_options": base})
        return term


def terms_of(config: RewardConfig) -> tuple[tuple[Term, ...], dict[str, Term]]:
    """The terms of the config, as a list and by name. A term with a path is named after its function.

    Raises:
        RewardError: duplicate term names, or no term.
    """
    if config.fn is not None:
        terms: tuple[Term, ...] = (Term(_name(config.fn), config.fn),)
    else:
        terms = tuple(Term(_name(t.fn) if t.fn else t.name, t.fn, t.weight, dict(t.options)) for t in config.terms)
    if not terms:
        raise RewardError("reward.terms is empty: name a reward, for example reward.terms=[{name: math}]")
    by_name = {term.name: term for term in terms}
    if len(by_name) < len(terms):
        raise RewardError(f"two reward terms share a name: {', '.join(term.name for term in terms)}")
    return terms, by_name


def _name(path: str) -> str:
    return path.rpartition(":")[2]
