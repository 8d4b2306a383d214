"""Rewrites records with a model: evolves prompts, or critiques and revises responses."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa

from rlcore.data import tables
from rlcore.data.batching.records import groups_of
from rlcore.data.rewriting.constitution import critique_requests, revised, revision_requests
from rlcore.data.rewriting.evolution import RewritingConfig, evolutions, evolved
from rlcore.problems import bounded
from rlcore.rounds.context import StageContext, whole_of
from rlcore.rounds.plan.config import CHAT, Made, StageConfig
from rlcore.rounds.stages.generate import sampled, score_report
from rlcore.rounds.stages.score import by_scorer
from rlcore.rounds.store.store import Artefact
from rlcore.templates import AnswerConfig
from rlcore.types import Prompt, Sample, Trajectory


@dataclass
class RewriteConfig(StageConfig):
    """New prompts or responses from a model, see rlcore.data.rewriting.evolution."""

    data: str = "train"
    model: str = "start"
    rewriting: RewritingConfig = field(default_factory=RewritingConfig)
    temperature: float | None = bounded(None, ge=0)
    max_new_tokens: int | None = bounded(None, ge=1)
    score: bool = True  # score new responses with the reward of the config
    reward_model: str | None = None  # for rewards that use a reward model
    prompts_per_chunk: int = bounded(512, ge=1)

    KIND: ClassVar = "rewrite"
    PRODUCES: ClassVar = None
    CONSUMES: ClassVar = {
        "data": (Made.prompts, Made.samples),
        "model": (Made.model,),
        "reward_model": (Made.reward_model,),
    }
    READS: ClassVar = (
        "model.dtype", "model.float32_head", "rollout", "reward", *CHAT, "data.system_prompt", "data.max_prompt_tokens",
    )  # fmt: skip
    NAMED: ClassVar = True


def run(context: StageContext) -> Artefact:
    """Runs in chunks; a restart repeats at most one."""
    config: RewriteConfig = context.config
    data, model = context.one("data"), context.one("model")
    table = data.table()
    starts = range(0, table.num_rows, config.prompts_per_chunk)
    if (reward_model := context.maybe("reward_model")) is not None:
        context.live.load_reward_model(reward_model)
    counts = Counter[str]()
    with context.live.world.tracker.phase(context.node.stage, total=table.num_rows) as advance:
        for part, start in enumerate(starts):
            rows = table.slice(start, config.prompts_per_chunk)
            noted = context.draft.directory / f"counts-{part:05d}.json"
            if not context.draft.has_part(part):
                context.live.publish(model)
                with context.live.stop.abandonable():
                    made, found = _chunk(context, rows, data.made, model.hash, part)
                noted.write_text(json.dumps(found))
                context.draft.write_part(part, made)
            counts.update(json.loads(noted.read_text()))
            advance(rows.num_rows)
    whole = whole_of(context, len(starts))
    report = score_report(whole) if data.made is Made.samples else {"prompts": whole.num_rows}
    return context.draft.finish_records({"counts": dict(counts), **report})


def _chunk(context: StageContext, rows: pa.Table, made: Made, model: str, part: int) -> tuple[pa.Table, dict[str, int]]:
    generator = BatchGenerator(context, part)
    if made is Made.prompts:
        prompts, counts = evolve(context, generator, tables.to_prompts(rows))
        return tables.from_prompts(prompts), counts | generator.counts
    samples, counts = revise(context, generator, tables.to_samples(rows), model)
    return tables.from_samples(samples), counts | generator.counts


def evolve(
    context: StageContext, generator: BatchGenerator, prompts: Sequence[Prompt]
) -> tuple[list[Prompt], dict[str, int]]:
    config = context.config.rewriting
    requests = evolutions(prompts, config, name_of(context), context.seeds())
    answers = generator([r.text for r in requests], [r.uid for r in requests], config.answer)
    answered = [(r, a) for r, a in zip(requests, answers, strict=True) if a is not None]
    made, counts = evolved([r for r, _ in answered], [a for _, a in answered], config, context.live.render_prompt)
    if config.put_back:  # also prompts without any answer
        with_answer = {r.parent.uid for r, _ in answered}
        without_answer = [prompt for prompt in prompts if prompt.uid not in with_answer]
        made, counts = made + without_answer, counts | {"put_back": counts["put_back"] + len(without_answer)}
    return made, counts


def revise(
    context: StageContext, generator: BatchGenerator, samples: Sequence[Sample], model: str
) -> tuple[list[Sample], dict[str, int]]:
    config, counts = context.config.rewriting.constitution, Counter[str]()
    requests = critique_requests(samples, config, name_of(context), context.seeds())
    if config.critique:
        answers = generator(
            [r.text for r in requests], [f"{r.sample_id}.c" for r in requests]
        )  # a truncated critique is still usable
        answered = [(r, a) for r, a in zip(requests, answers, strict=True) if a is not None]
        requests, found = revision_requests([r for r, _ in answered], [a for _, a in answered], config)
        counts.update({f"critique_{name}": value for name, value in found.items()})
    answers = generator([r.text for r in requests], [r.sample_id for r in requests], config.revision_answer)
    answered = [(r, a) for r, a in zip(requests, answers, strict=True) if a is not None]
    tokens = context.live.response_ids
    kept, found = revised([r for r, _ in answered], [a for _, a in answered], config, tokens, model)
    counts.update(found)
    if kept and context.config.score:
        kept = by_scorer(context, kept, groups_of(kept), context.live.world.rewards)
    return kept, dict(counts)


def name_of(context: StageContext) -> str:
    """Part of the uids of new records: two rounds that rewrite the same prompt give two prompts."""
    return f"{context.node.stage}-r{context.node.round}"


@dataclass
class BatchGenerator:
    """One answer of the engines per text; None if the request is too long, or if the answer must be complete and was
    truncated.
    """

    context: StageContext
    part: int
    turn: int = 0
    too_long: int = 0
    cut_off: int = 0

    @property
    def counts(self) -> dict[str, int]:
        return {"too_long": self.too_long, "dropped_cut_off": self.cut_off}

    def __call__(
        self, texts: Sequence[str], uids: Sequence[str], whole: AnswerConfig | None = None
    ) -> list[str | None]:  # fmt: skip
        """Args:
        whole: locates the text in the answer that must not be truncated, since a truncated text must not be learnt with
            an end token. None: accepts any answer.
        """
        context = self.context
        prompts = []
        for text, uid in zip(texts, uids, strict=True):
            rendered, ids = context.live.render(text)
            prompts.append(Prompt(uid, tuple(ids), rendered))
        limit = context.live.max_prompt_tokens
        fitting = [p for p in prompts if len(p.token_ids) <= limit]
        self.too_long += len(prompts) - len(fitting)
        sampling = context.sampling(
            1,
            context.seeds(self.part, self.turn),
            temperature=context.config.temperature,
            max_new_tokens=context.config.max_new_tokens,
        )
        self.turn += 1
        groups = sampled(context, fitting, sampling, score=False, turns=False) if fitting else []
        replies = {group.prompt.uid: group.trajectories[0] for group in groups}
        truncated = {uid: t for uid, t in replies.items() if t.finish_reason == "length"}
        cut = {uid for uid, t in truncated.items() if whole is not None and _open(t, whole)}
        self.cut_off += len(cut)
        return [replies[p.uid].text if p.uid in replies and p.uid not in cut else None for p in prompts]


def _open(trajectory: Trajectory, config: AnswerConfig) -> bool:
    """True if the located text reaches the end of the answer."""
    return not config.before or config.before not in trajectory.text.rpartition(config.after or "\0")[2]
