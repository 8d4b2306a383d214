"""The plan of a config without starting anything: checks, stages, placement, batches, memory, weight sync."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from actors.config.rounds import plan_rounds
from actors.config.rules import device_of, problems, shares_gpu
from actors.config.schema import Config, DeadlinesConfig
from actors.inputs import inspect_inputs
from actors.placement.memory import (
    GIB,
    PHASES,
    Shape,
    engine_share,
    gpu_rows,
    kv_sequences,
    memory_problem,
    model_shape,
    total,
)
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
GPU_GIB = 80.0  # of a hypothetical GPU: an H100
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
    memory, problem = _memory(config)
    every += [problem] if problem else []
    parts = [
        _checks(every), "" if found else _stages(nodes), placement, _batch(config), _environment(config), memory,
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


def _environment(config: Config) -> str:
    e = config.environment
    if e.fn is None:
        return ""
    processes = f"{e.concurrency} processes at once, up to {e.memory_limit_mb} MB each"
    return f"Environment: {e.fn}; up to {plural(e.max_turns, 'turn')} and {config.longest} tokens; {processes}"


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
    longest = config.longest
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


def _memory(config: Config) -> tuple[str, Problem | None]:
    """Tables of what lies on each GPU (on CPU: in each worker) by phase, and the problem if it does not fit."""
    try:
        shape, wanted = model_shape(config.model), units(config.cluster.roles)
    except (OSError, ValueError, AttributeError, PlacementError) as error:
        return f"Memory: not estimated, the model or the layout cannot be read: {error}", None
    gpu, which = _gpu(config)
    groups = [unit.roles for unit in wanted if gpu] or [(role,) for unit in wanted for role in unit.roles]
    head = f"Memory, estimated: {shape.parameters:,} parameters, {config.model.dtype.value}{which}"
    texts = [head, *(text for roles in groups if (text := _memory_table(config, shape, roles, gpu)))]
    return "\n".join(texts), memory_problem(config, shape, groups, gpu) if gpu else None


def _memory_table(config: Config, shape: Shape, roles: Sequence[str], gpu: float) -> str:
    rows = gpu_rows(config, shape, roles, gpu)
    if not rows:
        return ""
    table = Table("role", "what", *PHASES, title=f"{'A GPU' if gpu else 'A worker'} of {' + '.join(roles)}")
    for (role, what), row in rows.items():
        table.add_row(role, what, *(_size(row[phase]) if phase in row else "-" for phase in PHASES))
    table.add_section()
    table.add_row("total", "", *(_size(size) for size in total(rows.values()).values()))
    text = to_text(table)
    if "rollout" in roles:
        r, room = config.rollout, kv_sequences(config, shape, rows.get(("rollout", "KV cache"), {}))
        longest = config.context
        text += f"\nKV cache: room for {room:,} sequences of {longest} tokens; rollout.max_num_seqs={r.max_num_seqs}"
        if gpu:
            set_by = "as set" if r.gpu_memory_utilization is not None else "what the other roles leave"
            text += f"; rollout.gpu_memory_utilization={engine_share(config, shape, gpu):g} ({set_by})"
    return text


def _size(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.1f} MiB"


def _gpu(config: Config) -> tuple[float, str]:
    """Bytes of a GPU, 0 on CPU, and where they are from."""
    if device_of(config) == "cpu":
        return 0.0, ""
    size, origin = config.cluster.gpu_memory_gib, "cluster.gpu_memory_gib"
    if size is None:
        import torch

        found = torch.cuda.is_available()
        size = torch.cuda.get_device_properties(0).total_memory / GIB if found else GPU_GIB
        origin = "this machine's" if found else "assumed; set cluster.gpu_memory_gib"
    return size * GIB, f"; GPUs of {size:.0f} GiB ({origin})"


def _weight_sync(config: Config) -> str:
    from actors.weights.sender import choose_backend

    shared, device = shares_gpu(config), device_of(config)
    where = f"{device}, policy and rollout {'colocated' if shared else 'apart'}"
    try:
        backend = choose_backend(config.rollout, device, shared)
    except ValueError as error:
        return f"Weight sync: no backend works ({where}): {error}"
    return f"Weight sync: {backend} ({where}; rollout.weight_sync={config.rollout.weight_sync.value})"
