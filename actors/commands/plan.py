"""The plan of a config without starting anything: checks, stages, placement, batches, memory, weight sync."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from actors.config.rounds import plan_rounds
from actors.config.rules import device_of, problems, shares_gpu
from actors.config.schema import Config, DeadlinesConfig, DType
from actors.inputs import inspect_inputs
from actors.placement.memory import GIB, Shape, engine_share, model_shape, trainer_bytes
from actors.placement.placement import (
    Node,
    PlacementError,
    Unit,
    check_fit,
    cluster_nodes,
    render_table,
    to_text,
    units,
)
from actors.placement.ray_connection import connected
from actors.placement.ray_probe import ClusterError, named_address
from rlcore.problems import Problem, plural
from rlcore.rounds.plan.graph import Node as Stage

GPUS_PER_NODE, CPUS_PER_NODE = 8, 96  # of a hypothetical GPU node
GPU_GIB = 80.0  # of a hypothetical GPU
CONNECT_S = 15.0  # time limit of the query for cluster nodes


@dataclass(frozen=True, slots=True)
class Plan:
    text: str
    problems: list[Problem]  # errors and warnings
    fits: bool  # true if the workers fit on the cluster

    @property
    def ok(self) -> bool:
        return self.fits and all(problem.warning for problem in self.problems)


def plan(config: Config) -> Plan:
    """Plans a config. Starts no actor; queries the nodes of a Ray cluster only if `cluster.address` or RAY_ADDRESS
    names one. An invalid config gives a plan with its problems, not an exception.
    """
    nodes, found = plan_rounds(config) if config.rounds.stages else ([], [])
    every = [*problems(config), *found]
    every += inspect_inputs(config, {problem.key for problem in every if not problem.warning})
    placement, fits = _placement(config)
    parts = [
        _checks(every), "" if found else _stages(nodes), placement, _batch(config), _memory(config),
        _weight_sync(config),
    ]  # fmt: skip
    return Plan("\n\n".join(part for part in parts if part), every, fits)


def _checks(found: Sequence[Problem]) -> str:
    if not found:
        return "Checks: all passed"
    errors = sum(not problem.warning for problem in found)
    head = f"Checks: {plural(errors, 'error')}, {plural(len(found) - errors, 'warning')}"
    marks = [("  [warning]" if problem.warning else "  [error]") + "\n" + problem.render() for problem in found]
    return "\n".join([head, *marks])


def _stages(nodes: Sequence[Stage]) -> str:
    """For `rlcore rounds`: the inputs of each stage in its first round; empty without stages."""
    if not nodes:
        return ""
    rounds: dict[str, list[int]] = {}
    for node in nodes:
        rounds.setdefault(node.stage, []).append(node.round)
    table = Table("stage", "kind", "rounds", "reads at first", "makes", title=f"Stages: {len(nodes)} runs")
    for node in nodes:
        if node.round == rounds[node.stage][0]:
            reads = dict.fromkeys(source.stage for sources in node.inputs.values() for source in sources)
            table.add_row(node.stage, node.kind, _spans(rounds[node.stage]), ", ".join(reads), node.made.value)
    return to_text(table)


def _spans(numbers: Sequence[int]) -> str:
    """
    >>> _spans([1, 2, 3, 5])
    '1-3, 5'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _placement(config: Config) -> tuple[str, bool]:
    try:
        wanted = units(config.cluster.roles)
        nodes, origin = _nodes(config, wanted)
        homes = check_fit(wanted, nodes)
    except PlacementError as error:
        return f"Placement: {error}", False
    names: dict[str, list[str]] = {}
    for unit, unit_homes in zip(wanted, homes, strict=True):
        for role in unit.roles:
            count = getattr(config.cluster.roles, role).num_workers
            names[role] = [home.name if home else "?" for home in unit_homes[:count]]
    return f"{render_table(config.cluster.roles, names)}\n{origin}", True


def _nodes(config: Config, wanted: Sequence[Unit]) -> tuple[list[Node], str]:
    address, note = named_address(config.cluster), ""
    if address:
        limit = min(config.cluster.deadlines.connect_s, CONNECT_S)
        try:
            with connected(replace(config.cluster, deadlines=DeadlinesConfig(connect_s=limit))):
                return cluster_nodes(), f"Nodes of the Ray cluster at {address.value}"
        except ClusterError as error:
            note = f"; {error.cause}"
    gpus = math.ceil(sum(b.gpus for unit in wanted for b in unit.bundles))
    if not gpus:
        cpus = float(os.cpu_count() or 1)
        return [Node("here", "this machine", 0, cpus)], f"This machine, {cpus:g} CPUs{note or '; no Ray cluster named'}"
    each = min(gpus, GPUS_PER_NODE)
    nodes = [Node(f"n{i}", f"node-{i}", each, CPUS_PER_NODE) for i in range(math.ceil(gpus / each))]
    origin = f"Made-up cluster: {len(nodes)} x {each} GPUs and {CPUS_PER_NODE} CPUs"
    return nodes, origin + note


def _batch(config: Config) -> str:
    t, r, roles = config.trainer, config.rollout, config.cluster.roles
    samples, updates = t.prompts_per_step * t.samples_per_prompt, max(t.updates_per_step, 1)
    longest = config.data.max_prompt_tokens + r.max_new_tokens
    ranks, engines = max(roles.policy.num_workers, 1), max(roles.rollout.num_workers, 1)
    per_update = samples // updates
    per_rank = math.ceil(per_update / ranks)
    fit, at_once = max(t.max_tokens_per_micro_batch // longest, 1), min(r.max_num_seqs, samples)
    steps, critics = updates * t.epochs_per_step, roles.critic.num_workers
    critic_share = math.ceil(per_update / max(critics, 1))
    critic = [("completions per critic rank", critic_share, f"{per_update} over {critics} ranks")]
    rows = [
        ("completions per step", samples, f"{t.prompts_per_step} prompts x {t.samples_per_prompt} samples"),
        ("optimizer steps per step", steps, f"{updates} updates x {t.epochs_per_step} epochs"),
        ("completions per optimizer step", per_update, f"{samples} / {updates}"),
        ("completions per policy rank", per_rank, f"{per_update} over {ranks} ranks, per optimizer step"),
        *(critic if critics else []),
        ("longest sequence", longest, f"{config.data.max_prompt_tokens} prompt + {r.max_new_tokens} new tokens"),
        ("tokens per step, at most", samples * longest, "every sequence at its longest"),
        ("micro-batches per rank, at most", math.ceil(per_rank / fit), f"{fit} longest sequences each"),
        ("completions per engine", math.ceil(samples / engines), f"{at_once} at a time, {engines} engines"),
    ]  # fmt: skip
    if not config.rounds.stages:  # stages have separate numbers
        rows.append(("completions in the run", t.steps * samples, f"{t.steps} steps"))
        rows.append(("optimizer steps in the run", t.steps * steps, f"and {t.warmup.steps} of supervised warm-up"))
    title = "Batches of a stage `rl` without overrides" if config.rounds.stages else "Batches"
    table = Table("quantity", "value", "from", title=title)
    for name, value, origin in rows:
        table.add_row(name, f"{value:,}", origin)
    return to_text(table)


def _memory(config: Config) -> str:
    try:
        shape = model_shape(config.model)
    except (OSError, ValueError, AttributeError) as error:
        return f"Memory: not estimated, the model cannot be read: {error}"
    title = f"Memory per worker, estimated: {shape.parameters:,} parameters, {config.model.dtype.value}"
    table = Table("role", "what", "size", title=title)
    for role, rows in _memory_rows(config, shape):
        for i, (what, size) in enumerate(rows):
            table.add_row(role if not i else "", what, _size(size), end_section=i == len(rows) - 1)
    return to_text(table)


def _size(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.1f} MiB"


def _memory_rows(config: Config, shape: Shape) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    roles, r, bytes_each = config.cluster.roles, config.rollout, 2 if config.model.dtype is DType.bfloat16 else 4
    host = {"master weights", "Adam states"} if config.engine.offload_optimizer else set()
    for role in ("policy", "critic"):
        if getattr(roles, role).num_workers:
            held = trainer_bytes(config, shape, role)
            rows = [(what + (" (host memory)" if what in host else ""), size) for what, size in held.items() if size]
            yield role, [*rows, ("total", sum(size for what, size in held.items() if what not in host))]
    if roles.reference.num_workers:
        split = roles.reference.num_workers if config.engine.zero_stage == 3 else 1
        yield "reference", [("weights", shape.parameters * bytes_each / split)]
    per_token = shape.kv_bytes(bytes_each)
    longest = r.max_model_len or config.data.max_prompt_tokens + r.max_new_tokens
    samples = config.trainer.prompts_per_step * config.trainer.samples_per_prompt
    wanted = min(r.max_num_seqs, samples) * longest * per_token
    weights = shape.parameters * bytes_each / r.tensor_parallel_size
    if device_of(config) == "cpu":
        room, origin = r.cpu_kv_cache_gib * GIB, "rollout.cpu_kv_cache_gib"
    else:
        gpu, real = _gpu_bytes()
        share = engine_share(config, shape, gpu)
        room = gpu * share - weights
        which = "this" if real else "a made-up"
        origin = f"{share:g} of {which} GPU of {gpu / GIB:.0f} GiB, less weights"
    seqs = max(0, int(room * r.tensor_parallel_size // (longest * per_token)))
    yield (
        "rollout",
        [
            ("weights", weights),
            (f"KV cache: {origin}; room for {seqs:,} sequences of {longest} tokens", max(room, 0.0)),
            ("KV cache at full concurrency", wanted / r.tensor_parallel_size),
        ],
    )


def _gpu_bytes() -> tuple[float, bool]:
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory), True
    return GPU_GIB * GIB, False


def _weight_sync(config: Config) -> str:
    from actors.weights.sender import choose_backend

    shared, device = shares_gpu(config), device_of(config)
    where = f"{device}, policy and rollout {'colocated' if shared else 'apart'}"
    try:
        backend = choose_backend(config.rollout, device, shared)
    except ValueError as error:
        return f"Weight sync: no backend works ({where}): {error}"
    return f"Weight sync: {backend} ({where}; rollout.weight_sync={config.rollout.weight_sync.value})"
