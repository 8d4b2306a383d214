"""New records out of old ones, by a model: prompts are evolved, responses are criticised and revised."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from rlcore.data import tables
from rlcore.data.batching.records import groups_of
from rlcore.data.rewriting.constitution import critique_requests, revised, revision_requests
from rlcore.data.rewriting.evolution import evolutions, evolved
from rlcore.data.tokenizer import encode
from rlcore.rounds.context import Job, whole_of
from rlcore.rounds.plan.config import Made, RewriteConfig
from rlcore.rounds.stages.generate import sampled, score_report
from rlcore.rounds.stages.score import by_scorer
from rlcore.rounds.store.store import Artefact
from rlcore.templates import AnswerConfig
from rlcore.types import Prompt, Sample, Trajectory


def run(job: Job) -> Artefact:
    """In chunks: a restart asks again for at most one."""
    config: RewriteConfig = job.config
    data, model = job.one("data"), job.one("model")
    table = data.table()
    starts = range(0, table.num_rows, config.prompts_per_chunk)
    if (reward_model := job.maybe("reward_model")) is not None:
        job.live.hold_reward(reward_model)
    counts = Counter[str]()
    with job.live.world.tracker.phase(job.node.stage, total=table.num_rows) as advance:
        for part, start in enumerate(starts):
            rows = table.slice(start, config.prompts_per_chunk)
            noted = job.draft.directory / f"counts-{part:05d}.json"
            if not job.draft.has_part(part):
                job.live.publish(model)
                with job.live.stop.abandonable():
                    made, found = _chunk(job, rows, data.made, model.hash, part)
                noted.write_text(json.dumps(found))
                job.draft.write_part(part, made)
            counts.update(json.loads(noted.read_text()))
            advance(rows.num_rows)
    whole = whole_of(job, len(starts))
    report = score_report(whole) if data.made is Made.samples else {"prompts": whole.num_rows}
    return job.draft.finish_records({"counts": dict(counts), **report})


def _chunk(job: Job, rows: pa.Table, made: Made, model: str, part: int) -> tuple[pa.Table, dict[str, int]]:
    asker = Asker(job, part)
    if made is Made.prompts:
        prompts, counts = evolve(job, asker, tables.to_prompts(rows))
        return tables.from_prompts(prompts), counts | asker.counts
    samples, counts = revise(job, asker, tables.to_samples(rows), model)
    return tables.from_samples(samples), counts | asker.counts


def evolve(job: Job, asker: Asker, prompts: Sequence[Prompt]) -> tuple[list[Prompt], dict[str, int]]:
    config = job.config.rewriting
    requests = evolutions(prompts, config, name_of(job), job.seeds())
    answers = asker([r.text for r in requests], [r.uid for r in requests], config.answer)
    told = [(r, a) for r, a in zip(requests, answers, strict=True) if a is not None]
    made, counts = evolved([r for r, _ in told], [a for _, a in told], config, job.live.render_prompt)
    if config.put_back:  # those too without any answer
        heard = {r.parent.uid for r, _ in told}
        unheard = [prompt for prompt in prompts if prompt.uid not in heard]
        made, counts = made + unheard, counts | {"put_back": counts["put_back"] + len(unheard)}
    return made, counts


def revise(job: Job, asker: Asker, samples: Sequence[Sample], model: str) -> tuple[list[Sample], dict[str, int]]:
    config, counts = job.config.rewriting.constitution, Counter[str]()
    requests = critique_requests(samples, config, name_of(job), job.seeds())
    if config.critique:
        answers = asker([r.text for r in requests], [f"{r.sample_id}.c" for r in requests])  # cut off, it is one still
        told = [(r, a) for r, a in zip(requests, answers, strict=True) if a is not None]
        requests, found = revision_requests([r for r, _ in told], [a for _, a in told], config)
        counts.update({f"critique_{name}": value for name, value in found.items()})
    answers = asker([r.text for r in requests], [r.sample_id for r in requests], config.revision_answer)
    told = [(r, a) for r, a in zip(requests, answers, strict=True) if a is not None]
    tokens: Callable[[str], list[int]] = lambda text: _tokens(job, text)  # noqa: E731
    kept, found = revised([r for r, _ in told], [a for _, a in told], config, tokens, model)
    counts.update(found)
    if kept and job.config.score:
        kept = by_scorer(job, kept, groups_of(kept), job.live.world.rewards)
    return kept, dict(counts)


def name_of(job: Job) -> str:
    """In the uids of what is made: two rounds that rewrite one prompt make two prompts."""
    return f"{job.node.stage}-r{job.node.round}"


def _tokens(job: Job, text: str) -> list[int]:
    (ids,) = encode(job.live.tokenizer, [text], special=False)
    return [*ids, int(job.live.tokenizer.eos_token_id)]


@dataclass
class Asker:
    """One answer of the engines to each text; None where the request is longer than they take, or where the answer
    was to be whole and was cut off."""

    job: Job
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
        whole: where in the answer the text is that must not be cut off: it would be learnt with an end it never had.
            None: any answer will do.
        """
        job = self.job
        prompts = []
        for text, uid in zip(texts, uids, strict=True):
            rendered, ids = job.live.render(text)
            prompts.append(Prompt(uid, tuple(ids), rendered))
        limit = job.live.max_prompt_tokens
        fitting = [p for p in prompts if len(p.token_ids) <= limit]
        self.too_long += len(prompts) - len(fitting)
        sampling = job.sampling(
            1,
            job.seeds(self.part, self.turn),
            temperature=job.config.temperature,
            max_new_tokens=job.config.max_new_tokens,
        )
        self.turn += 1
        groups = sampled(job, fitting, sampling, score=False) if fitting else []
        said = {group.prompt.uid: group.trajectories[0] for group in groups}
        cut = {uid for uid, t in said.items() if whole is not None and t.finish_reason == "length" and _open(t, whole)}
        self.cut_off += len(cut)
        return [said[p.uid].text if p.uid in said and p.uid not in cut else None for p in prompts]


def _open(trajectory: Trajectory, config: AnswerConfig) -> bool:
    """Whether what is asked for reaches to the end of what was said."""
    return not config.before or config.before not in trajectory.text.rpartition(config.after or "\0")[2]
