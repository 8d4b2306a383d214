"""Context passed to a stage: the run's actors, the stage's inputs, and the artefact that it writes."""

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
from rlcore.data.tokenizer import Tokenizer
from rlcore.interfaces import Sampling, Tracker, World
from rlcore.loops import parity
from rlcore.loops.config import ParityConfig
from rlcore.loops.online import OnlineRun
from rlcore.loops.stop import StopSignal
from rlcore.rewards.config import RewardConfig
from rlcore.rounds.plan.config import Made
from rlcore.rounds.plan.graph import Node
from rlcore.rounds.store.store import Artefact, PartialArtefact
from rlcore.types import Group

ROWS_PER_PART = 65_536


@dataclass
class RunContext:
    """The actors that stay alive between stages, and the content hash of what each holds."""

    world: World
    tokenizer: Tokenizer
    sampling: Sampling  # as the config's `rollout` has it
    reward: RewardConfig
    stop: StopSignal
    run_dir: Path
    exact: bool  # the weights that train are those that are exported: float32, no adapters
    open_tracker: Callable[[Path], Tracker]  # of one stage: its folder
    # overrides, prompts, world, folder, seed of the prompts' order and of all draws
    online_run: Callable[[Sequence[str], pa.Table, World, Path, int], OnlineRun]
    render: Callable[[str], tuple[str, Sequence[int]]]  # a text rendered as a user message, and its token ids
    render_prompt: Callable[[str], tuple[str, Sequence[int]]]  # a new prompt, with the system prompt
    max_prompt_tokens: int  # that the engines take
    policy_holds: str  # by the policy
    parity: ParityConfig = field(default_factory=ParityConfig)
    fresh: bool = True  # its optimizer has taken no step
    sent: str = ""  # to the engines
    reward_model_holds: str = ""  # by the reward model
    unchecked: bool = False  # engines and policy have not been compared since the last sync
    loads: int = 0  # of weights from a folder into a running actor

    def hold(self, model: Artefact, to_train: bool = False) -> None:
        """The policy holds these weights; `to_train`: with an optimizer that has taken no step."""
        if self.policy_holds != model.hash or (to_train and not self.fresh and not self.exact):
            self.world.policy.initialize(model.path)
            self.policy_holds, self.fresh = model.hash, True
            self.loads += 1
        elif to_train and not self.fresh:
            self.world.policy.reset_optimizer()
            self.fresh = True

    def publish(self, model: Artefact) -> None:
        """The engines sample from these weights."""
        self.hold(model)
        if self.sent != model.hash:
            self.world.weights.publish()
            self.sent, self.unchecked = model.hash, True

    def compare(self, groups: Sequence[Group], sampling: Sampling) -> None:
        """The first samples after each sync: do the engines say what the policy says?

        Raises:
            ParityError: they do not.
        """
        if not self.unchecked or sampling.temperature <= 0 or self.policy_holds != self.sent:
            return
        drawn = [t for group in groups for t in group.trajectories if t.num_response_tokens]
        if drawn:
            batch = collate(drawn[: self.parity.num_sequences])
            own = self.world.policy.logprobs(batch, sampling.temperature)
            parity.compare(batch.with_arrays(old_logprobs=own), self.parity)
            self.unchecked = False

    def training(self) -> None:
        """The policy's weights are about to change: until `trained` their content is unknown."""
        self.policy_holds, self.fresh = "", False

    def trained(self, model: Artefact, sent: bool = False) -> None:
        """The policy ended with these weights; `sent`: so did the engines."""
        self.policy_holds = model.hash
        self.sent = model.hash if sent else self.sent

    def hold_reward(self, model: Artefact) -> None:
        if self.world.reward_model is None:
            raise RuntimeError("no reward model is running; set cluster.roles.reward.num_workers=1")
        if self.reward_model_holds != model.hash:
            self.world.reward_model.initialize(model.path)
            self.reward_model_holds = model.hash
            self.loads += 1


@dataclass
class StageContext:
    """One run of one stage."""

    live: RunContext
    node: Node
    inputs: Mapping[str, Sequence[Artefact]]  # by the field that refers to them
    draft: PartialArtefact
    seed: int  # of the run
    folder: Path  # for what is kept next to the artefact: curves, samples to look at
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
        """Prompts of an input that the engines take, and how many are left out because they are too long.

        Raises:
            DataError: all of them are.
        """
        table = self.one(name).table()
        limit = self.live.max_prompt_tokens
        fitting = table.filter(pc.less_equal(pc.list_value_length(table["prompt_ids"]), limit))
        if table.num_rows and not fitting.num_rows:
            raise DataError(
                f"stage {self.node.stage}: all {table.num_rows:,} prompts of `{name}` have more than {limit} tokens, "
                "which is what the engines take: raise data.max_prompt_tokens or rollout.max_model_len"
            )
        dropped = table.num_rows - fitting.num_rows
        return fitting, {"dropped_prompt_too_long": dropped} if dropped else {}

    def seeds(self, *more: int) -> int:
        """A seed of this stage in this round, and of what `more` counts: equal after a restart."""
        return int(np.random.SeedSequence([self.seed, self.node.round, *more]).generate_state(1)[0])

    def sampling(self, num_samples: int, seed: int, **changes: Any) -> Sampling:
        """The config's sampling; `changes` that are None leave it as it is."""
        wanted = {name: value for name, value in changes.items() if value is not None}
        return replace(self.live.sampling, num_samples=num_samples, seed=seed, **wanted)


def joined(artefacts: Sequence[Artefact]) -> pa.Table:
    """All rows. Samples whose id an earlier artefact has, as those of two rounds may, get the artefact's number
    behind it: an id is unique in what is made of them. A prompt that an earlier artefact has is left out."""
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
    """`names`, which are unique among themselves, with `suffix` behind those that are in `taken`, where they all go."""
    own, found = set(names), []
    for name in names:
        fresh = name
        while fresh in taken or (fresh != name and fresh in own):
            fresh += suffix
        taken.add(fresh)
        found.append(fresh)
    return found


def prompts_together(table: pa.Table) -> pa.Table:
    """Rows of one prompt next to each other, however many artefacts or models they came from; prompts as they came
    first, and so are the rows of each."""
    uids = table["uid"].combine_chunks()
    return table.take(pc.sort_indices(pc.index_in(uids, pc.unique(uids))))


def whole_of(context: StageContext, parts: int) -> pa.Table:
    """The parts that a stage has written; of none there is an empty one."""
    if not parts:
        context.draft.write_part(0, tables.SCHEMAS[context.draft.made.value].empty_table())
    return tables.concat([context.draft.read_part(i) for i in range(max(1, parts))])


def finish(context: StageContext, table: pa.Table, report: dict[str, object]) -> Artefact:
    for i, start in enumerate(range(0, max(1, table.num_rows), ROWS_PER_PART)):
        context.draft.write_part(i, table.slice(start, ROWS_PER_PART))
    return context.draft.finish_records(report)
