"""Context passed to a stage: the actors of the run, the inputs of the stage, and the artefact that it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlcore.data import tables
from rlcore.data.batching.collate import collate
from rlcore.data.sources.readers import DataError
from rlcore.data.tokenizer import Tokenizer, encode
from rlcore.interfaces import Sampling, Tracker, World
from rlcore.loops import parity
from rlcore.loops.config import ParityConfig
from rlcore.loops.online import OnlineRun
from rlcore.loops.stop import StopSignal
from rlcore.rewards.config import RewardConfig
from rlcore.rounds.plan.config import Made
from rlcore.rounds.plan.graph import Node
from rlcore.rounds.store.store import Artefact, PartialArtefact
from rlcore.types import Group, Sample

ROWS_PER_PART = 65_536


@dataclass
class RunContext:
    """The actors shared by all stages, with content hashes of their weights."""

    world: World
    tokenizer: Tokenizer
    sampling: Sampling  # the sampling settings of `rollout`
    reward: RewardConfig
    stop: StopSignal
    run_dir: Path
    exact: bool  # the trained weights equal the exported ones: float32, no adapters
    open_tracker: Callable[[Path], Tracker]  # folder of a stage -> its tracker
    # overrides, prompts, world, folder, seed for the order of prompts and all draws
    online_run: Callable[[Sequence[str], pa.Table, World, Path, int], OnlineRun]
    render: Callable[[str], tuple[str, Sequence[int]]]  # text -> (rendered as a user message, its token ids)
    render_prompt: Callable[[str], tuple[str, Sequence[int]]]  # new prompt, with the system prompt
    max_prompt_tokens: int  # limit of the engines
    policy_weights: str  # content hash of the current weights; "": unknown. Likewise the next two
    parity: ParityConfig = field(default_factory=ParityConfig)
    fresh: bool = True  # the optimizer has taken no step
    engine_weights: str = ""
    reward_model_weights: str = ""
    unchecked: bool = False  # engines and policy were not compared since the last sync
    num_loads: int = 0  # of weights from a folder into running actors

    def load_policy(self, model: Artefact, to_train: bool = False) -> None:
        """Loads these weights into the policy; `to_train` also resets the optimizer."""
        if self.policy_weights != model.hash or (to_train and not self.fresh and not self.exact):
            self.world.policy.initialize(model.path)
            self.policy_weights, self.fresh = model.hash, True
            self.num_loads += 1
        elif to_train and not self.fresh:
            self.world.policy.reset_optimizer()
            self.fresh = True

    def publish(self, model: Artefact) -> None:
        """Loads these weights into the policy and the engines."""
        self.load_policy(model)
        if self.engine_weights != model.hash:
            self.world.weights.publish()
            self.engine_weights, self.unchecked = model.hash, True

    def compare(self, groups: Sequence[Group], sampling: Sampling) -> None:
        """Compares the log-probs of engines and policy on the first samples after each sync.

        Raises:
            ParityError: they differ.
        """
        if not self.unchecked or sampling.temperature <= 0 or self.policy_weights != self.engine_weights:
            return
        drawn = [t for group in groups for t in group.trajectories if t.num_response_tokens]
        if drawn:
            batch = collate(drawn[: self.parity.num_sequences])
            own = self.world.policy.logprobs(batch, sampling.temperature)
            parity.compare(batch.with_arrays(old_logprobs=own), self.parity)
            self.unchecked = False

    def training(self) -> None:
        """Marks the weights of the policy as changing: their hash is unknown until `trained`."""
        self.policy_weights, self.fresh = "", False

    def trained(self, model: Artefact, synced: bool = False) -> None:
        """Records the final weights of the policy, and with `synced` of the engines."""
        self.policy_weights = model.hash
        self.engine_weights = model.hash if synced else self.engine_weights

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a response, the end token included."""
        (ids,) = encode(self.tokenizer, [text], special=False)
        return (*ids, int(self.tokenizer.eos_token_id))

    def load_reward_model(self, model: Artefact) -> None:
        if self.world.reward_model is None:
            raise RuntimeError("no reward model is running; set cluster.roles.reward.num_workers=1")
        if self.reward_model_weights != model.hash:
            self.world.reward_model.initialize(model.path)
            self.reward_model_weights = model.hash
            self.num_loads += 1


@dataclass
class StageContext:
    """One run of a stage."""

    live: RunContext
    node: Node
    inputs: Mapping[str, Sequence[Artefact]]  # inputs by config field
    draft: PartialArtefact
    seed: int  # seed of the run
    folder: Path  # folder for curves and samples next to the artefact
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Any:
        return self.node.config

    def one(self, name: str) -> Artefact:
        (found,) = self.inputs[name]
        return found

    def maybe(self, name: str) -> Artefact | None:
        found = self.inputs.get(name, ())
        return found[0] if found else None

    def prompts(self, name: str) -> tuple[pa.Table, dict[str, int]]:
        """Prompts of an input within the limit of the engines, and the number of dropped longer ones.

        Raises:
            DataError: all prompts are too long.
        """
        table = self.one(name).table()
        limit = self.live.max_prompt_tokens
        fitting = table.filter(pc.less_equal(pc.list_value_length(table["prompt_ids"]), limit))
        if table.num_rows and not fitting.num_rows:
            raise DataError(
                f"stage {self.node.stage}: all {table.num_rows:,} prompts of `{name}` have more than {limit} tokens, "
                "the limit of the engines: raise data.max_prompt_tokens or rollout.max_model_len"
            )
        dropped = table.num_rows - fitting.num_rows
        return fitting, {"dropped_prompt_too_long": dropped} if dropped else {}

    def samples(self) -> list[Sample]:
        """Of the input `samples`, those of one prompt next to each other."""
        return tables.to_samples(prompts_together(joined(self.inputs["samples"])))

    def seeds(self, *more: int) -> int:
        """A seed for this stage, round and `more`; equal after a restart."""
        return int(np.random.SeedSequence([self.seed, self.node.round, *more]).generate_state(1)[0])

    def sampling(self, num_samples: int, seed: int, **changes: Any) -> Sampling:
        """The sampling settings of the config with `changes`; None keeps the value."""
        wanted = {name: value for name, value in changes.items() if value is not None}
        return replace(self.live.sampling, num_samples=num_samples, seed=seed, **wanted)


def joined(artefacts: Sequence[Artefact]) -> pa.Table:
    """Concatenates the rows of all artefacts. Sample ids that occur in an earlier artefact get the number of their
    artefact as suffix, so that ids are unique. Prompts of an earlier artefact are dropped.
    """
    found, taken = [], set[str]()
    for number, artefact in enumerate(artefacts):
        table = artefact.table()
        if len(artefacts) > 1 and "sample_id" in table.column_names:
            ids = _unique(table["sample_id"].to_pylist(), taken, f"+{number}")
            table = table.set_column(table.column_names.index("sample_id"), "sample_id", pa.array(ids, pa.string()))
        elif len(artefacts) > 1 and artefact.made is Made.prompts:
            uids = table["uid"].to_pylist()
            table = table.filter(pa.array([uid not in taken for uid in uids], pa.bool_()))
            taken.update(uids)
        found.append(table)
    return tables.concat(found)


def _unique(names: Sequence[str], taken: set[str], suffix: str) -> list[str]:
    """`names` (unique among themselves), with `suffix` appended to those in `taken`; adds the results to `taken`."""
    own, found = set(names), []
    for name in names:
        fresh = name
        while fresh in taken or (fresh != name and fresh in own):
            fresh += suffix
        taken.add(fresh)
        found.append(fresh)
    return found


def prompts_together(table: pa.Table) -> pa.Table:
    """Groups the rows by prompt, in order of first occurrence; the order within a prompt is kept."""
    uids = table["uid"].combine_chunks()
    return table.take(pc.sort_indices(pc.index_in(uids, pc.unique(uids))))


def whole_of(context: StageContext, parts: int) -> pa.Table:
    """The written parts of a stage; an empty table if there are none."""
    if not parts:
        context.draft.write_part(0, tables.SCHEMAS[context.draft.made.value].empty_table())
    return tables.concat([context.draft.read_part(i) for i in range(max(1, parts))])


def finish(context: StageContext, table: pa.Table, report: dict[str, object]) -> Artefact:
    for i, start in enumerate(range(0, max(1, table.num_rows), ROWS_PER_PART)):
        context.draft.write_part(i, table.slice(start, ROWS_PER_PART))
    return context.draft.finish_records(report)
