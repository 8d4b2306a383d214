"""Placement of the workers of each role: Ray placement groups, checked against the cluster before any is created.

A *unit* is a role, or the roles joined by `colocate_with`; it gets one placement group. Worker i of every role in a
unit is in bundle i, so colocated workers of equal rank share a bundle and its GPU. The strategy is PACK. Verifiers use
SPREAD, because they are independent and use the CPUs of their host: each gets a separate node if possible.

GPU shares inside a unit: if the `gpus_per_worker` of the roles add up to at most 1, they are used unchanged. If they
add up to more (usually every role has 1), the bundle is one whole GPU and the shares are scaled, so that Ray accepts
all roles: 1 + 1 becomes 0.5 + 0.5. A share only controls placement; `rollout.gpu_memory_utilization` and
`rollout.sleep_level` divide memory. Sharing needs at most one GPU per worker, because Ray supports only fractions of
one GPU.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from io import StringIO
from typing import Any

import ray
from ray._private.state import available_resources_per_node  # Ray has no public API for the free resources of each node
from ray.util import placement_group, placement_group_table, remove_placement_group
from rich.console import Console, RenderableType
from rich.table import Table

from actors.config.schema import ClusterConfig, RoleConfig, RolesConfig
from rlcore.problems import UserError

ROLES = tuple(f.name for f in fields(RolesConfig))
POLL_S = 0.1
GRAIN = 10_000  # Ray counts resources in ten-thousandths


class PlacementError(UserError, RuntimeError):
    """The cluster has no room for the roles, or not in time. The message has a table and the cure."""


@dataclass(frozen=True, slots=True)
class Node:
    """A real or hypothetical node of the cluster; counts of GPUs and CPUs."""

    node_id: str
    name: str
    gpus: float
    cpus: float


@dataclass(frozen=True, slots=True)
class Bundle:
    gpus: float
    cpus: float

    def resources(self) -> dict[str, float]:
        """A bundle for Ray, which rejects empty bundles: a worker without resources requests one byte of memory."""
        wanted = {"GPU": self.gpus, "CPU": self.cpus}
        return {"memory": 1.0, **{name: amount for name, amount in wanted.items() if amount}}

    def __str__(self) -> str:
        return f"{self.gpus:g} GPU + {self.cpus:g} CPU"


@dataclass(frozen=True, slots=True)
class Unit:
    """Roles that share a placement group; the others name the first one in `colocate_with`."""

    roles: tuple[str, ...]
    shares: Mapping[str, float]  # GPUs of one worker of each role
    bundles: tuple[Bundle, ...]

    @property
    def strategy(self) -> str:
        return "SPREAD" if self.roles == ("verifier",) else "PACK"

    @property
    def label(self) -> str:
        return " + ".join(self.roles)


@dataclass(frozen=True, slots=True)
class RoleSlots:
    """Placement of the workers of one role, one entry per rank."""

    role: str
    placement_group: Any
    bundle_indices: tuple[int, ...]
    num_gpus: float  # per worker
    num_cpus: float
    node_ids: tuple[str, ...]
    node_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.bundle_indices)


def units(roles: RolesConfig) -> list[Unit]:
    """The placement groups to create, in the order of the roles; roles without workers are skipped.

    Raises:
        PlacementError: `colocate_with` names an unused or colocated role, or a role that shares GPUs needs more than
            one per worker.
    """
    used = {name: role for name in ROLES if (role := getattr(roles, name)).num_workers > 0}
    for name, role in used.items():
        host = used.get(role.colocate_with) if role.colocate_with else role
        if host is None or (host is not role and host.colocate_with):
            raise PlacementError(
                f"cluster.roles.{name}.colocate_with={role.colocate_with}: must name a role that has workers and "
                f"is not itself colocated; such roles: {', '.join(n for n, r in used.items() if not r.colocate_with)}"
            )
    hosts = [name for name, role in used.items() if not role.colocate_with]
    return [_unit({n: r for n, r in used.items() if n == host or r.colocate_with == host}, host) for host in hosts]


def _unit(members: dict[str, RoleConfig], host: str) -> Unit:
    names = sorted(members, key=lambda name: name != host)
    wants = {name: members[name].gpus_per_worker for name in names}
    sharing = [name for name in names if wants[name] > 0]
    total = sum(wants.values())
    if len(sharing) > 1 and (many := [name for name in sharing if wants[name] > 1]):
        raise PlacementError(
            f"cluster.roles.{many[0]}.gpus_per_worker={wants[many[0]]:g}: roles that share GPUs ({', '.join(sharing)}) "
            "take at most one GPU per worker; use more workers of one GPU each, or separate GPUs (colocate_with=null)"
        )
    scaled = len(sharing) > 1 and total > 1
    shares = {name: math.floor(GRAIN * want / total) / GRAIN if scaled else want for name, want in wants.items()}
    gpus = 1.0 if scaled else total
    count = max(role.num_workers for role in members.values())
    cpus = [sum(r.cpus_per_worker for r in members.values() if r.num_workers > i) for i in range(count)]
    return Unit(tuple(names), shares, tuple(Bundle(gpus, c) for c in cpus))


def fit(wanted: Sequence[Unit], nodes: Sequence[Node]) -> list[list[Node | None]]:
    """A node for each bundle of each unit, or None without room: first fit, biggest bundles first.

    A spread unit uses the node with the fewest of its bundles.
    """
    free = {node.node_id: [node.gpus, node.cpus] for node in nodes}
    homes: list[list[Node | None]] = [[] for _ in wanted]
    size = {i: max((b.gpus, b.cpus) for b in unit.bundles) for i, unit in enumerate(wanted)}
    for i in sorted(size, key=size.__getitem__, reverse=True):
        for bundle in wanted[i].bundles:
            able = [n for n in nodes if _holds(free[n.node_id], bundle)]
            if wanted[i].strategy == "SPREAD":
                able.sort(key=homes[i].count)
            home = able[0] if able else None
            homes[i].append(home)
            if home:
                free[home.node_id][0] -= bundle.gpus
                free[home.node_id][1] -= bundle.cpus
    return homes


def _holds(free: Sequence[float], bundle: Bundle) -> bool:
    slack = 0.5 / GRAIN
    return free[0] + slack >= bundle.gpus and free[1] + slack >= bundle.cpus


def cluster_nodes(free: bool = False) -> list[Node]:
    """The live nodes of the connected Ray cluster, with total or only free resources."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    addresses = Counter(node["NodeManagerAddress"] for node in alive)
    now = available_resources_per_node() if free else {}
    nodes = []
    for node in alive:
        address, node_id = node["NodeManagerAddress"], node["NodeID"]
        name = address if addresses[address] == 1 else f"{address}/{node_id[:6]}"
        held = now.get(node_id, {}) if free else node["Resources"]
        nodes.append(Node(node_id, name, held.get("GPU", 0.0), held.get("CPU", 0.0)))
    return nodes


def check_fit(wanted: Sequence[Unit], nodes: Sequence[Node]) -> list[list[Node | None]]:
    """Checks `fit`.

    Raises:
        PlacementError: with a table of missing resources per unit, the nodes, and the cure.
    """
    homes = fit(wanted, nodes)
    if all(home for unit in homes for home in unit):
        return homes
    columns = ("roles", "workers", "each needs", "placed", "missing")
    table = Table(*columns, title="The cluster is too small for this layout")
    cures: list[str] = []
    for unit, unit_homes in zip(wanted, homes, strict=True):
        left = [b for b, home in zip(unit.bundles, unit_homes, strict=True) if not home]
        missing = f"{sum(b.gpus for b in left):g} GPU, {sum(b.cpus for b in left):g} CPU" if left else "-"
        workers, placed = len(unit.bundles), len(unit.bundles) - len(left)
        table.add_row(unit.label, str(workers), str(unit.bundles[0]), str(placed), missing)
        if left:
            cures += _cures(unit, left, nodes)
    raise PlacementError("\n".join(["", to_text(table), _render_nodes(nodes), "What to change:", *cures]))


def _cures(unit: Unit, left: list[Bundle], nodes: Sequence[Node]) -> list[str]:
    keys, placed = [f"cluster.roles.{role}" for role in unit.roles], len(unit.bundles) - len(left)
    most_gpus, most_cpus = max((n.gpus for n in nodes), default=0), max((n.cpus for n in nodes), default=0)
    one_node, cures = "a worker must fit on one node: the largest has", []
    if left[0].gpus and not most_gpus:
        cures.append("  no node has a GPU: use cluster=laptop, or add GPU nodes with `ray start --address=...`")
    elif left[0].gpus > most_gpus:
        cures.append(f"  {one_node} {most_gpus:g} GPUs; lower {keys[0]}.gpus_per_worker")
    elif left[0].gpus:
        gpus = sum(b.gpus for b in left)
        cures.append(f"  add nodes with {gpus:g} more GPUs for {unit.label}, or colocate roles (colocate_with)")
    if left[0].cpus > most_cpus:
        what = " and ".join(f"{key}.cpus_per_worker" for key in keys)
        cures.append(f"  {one_node} {most_cpus:g} CPUs; lower {what}")
    elif left[0].cpus and not left[0].gpus:
        cpus = sum(b.cpus for b in left)
        cures.append(f"  add {cpus:g} CPUs for {unit.label}, or lower {keys[0]}.cpus_per_worker (0 is allowed)")
    if placed:
        cures.append("  or use a layout that fits: " + " ".join(f"{key}.num_workers={placed}" for key in keys))
    return cures


class Placement:
    """The placement groups of a run. `slots[role]` has the placement of each worker; `remove()` releases everything."""

    def __init__(self, roles: RolesConfig, slots: dict[str, RoleSlots], groups: list[Any]):
        self.roles, self.slots, self._groups = roles, slots, groups

    @classmethod
    def create(cls, cluster: ClusterConfig) -> Placement:
        """Reserves resources for every role on the connected cluster.

        Raises:
            PlacementError: the layout does not fit the cluster (immediately), or Ray did not grant it within
                `cluster.deadlines.placement_s` (with the pending bundles and free resources). No reservation remains.
        """
        wanted = units(cluster.roles)
        check_fit(wanted, cluster_nodes())
        # Biggest first, so that a small group does not take the only room for a large one.
        order = sorted(wanted, key=lambda unit: max((b.gpus, b.cpus) for b in unit.bundles), reverse=True)
        groups = {u.roles: placement_group([b.resources() for b in u.bundles], strategy=u.strategy) for u in order}
        try:
            homes = _await_groups(order, groups, cluster.deadlines.placement_s)
        except BaseException:
            for group in groups.values():
                remove_placement_group(group)
            raise
        names = {node.node_id: node.name for node in cluster_nodes()}
        slots = {}
        for unit in wanted:
            for role in unit.roles:
                config: RoleConfig = getattr(cluster.roles, role)
                ids = tuple(homes[unit.roles][: config.num_workers])
                slots[role] = RoleSlots(
                    role=role,
                    placement_group=groups[unit.roles],
                    bundle_indices=tuple(range(config.num_workers)),
                    num_gpus=unit.shares[role],
                    num_cpus=config.cpus_per_worker,
                    node_ids=ids,
                    node_names=tuple(names.get(i, i) for i in ids),
                )
        return cls(cluster.roles, slots, list(groups.values()))

    def render(self) -> str:
        return render_table(self.roles, {role: slots.node_names for role, slots in self.slots.items()})

    def remove(self) -> None:
        """Removes the groups and kills all actors in them. Safe to call twice."""
        while self._groups:
            remove_placement_group(self._groups.pop())


def _await_groups(
    order: Sequence[Unit], groups: Mapping[Any, Any], timeout_s: float
) -> dict[tuple[str, ...], list[str]]:
    """Node ids of every unit's bundles, in order. Polls the group table: `ready()` would need a worker process."""
    deadline = time.monotonic() + timeout_s
    while True:
        tables = {unit.roles: placement_group_table(groups[unit.roles]) for unit in order}
        pending = [unit for unit in order if tables[unit.roles]["state"] != "CREATED"]
        if not pending:
            return {
                roles: [home for _, home in sorted(table["bundles_to_node_id"].items(), key=lambda item: int(item[0]))]
                for roles, table in tables.items()
            }
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL_S)
    lines = [f"phase placement: {len(pending)} of {len(order)} groups not granted after {timeout_s:g} s. Pending:"]
    for unit in pending:
        needs = ", ".join(f"{n} x ({bundle})" for bundle, n in Counter(map(str, unit.bundles)).items())
        state = tables[unit.roles]["stats"].get("scheduling_state", tables[unit.roles]["state"])
        lines.append(f"  {unit.label}: {needs} [{state}]")
    lines += ["Free now:", _render_nodes(cluster_nodes(free=True))]
    lines.append("The cluster is large enough but busy: end other jobs, or raise cluster.deadlines.placement_s")
    raise PlacementError("\n".join(lines))


def render_table(roles: RolesConfig, homes: Mapping[str, Sequence[str]]) -> str:
    """The placement as text. `homes[role]` has the node of each worker; "?" means none."""
    shares = {role: unit.shares[role] for unit in units(roles) for role in unit.roles}
    table = Table("role", "workers", "GPUs each", "CPUs each", "colocated with", "node", title="Placement")
    for role in homes:
        config: RoleConfig = getattr(roles, role)
        cut = shares[role] != config.gpus_per_worker
        gpus, cpus = f"{shares[role]:g}" + (" (shared)" if cut else ""), f"{config.cpus_per_worker:g}"
        where = ", ".join(f"{name} x{n}" if n > 1 else name for name, n in Counter(homes[role]).items())
        table.add_row(role, str(config.num_workers), gpus, cpus, config.colocate_with or "-", where)
    return to_text(table)


def _render_nodes(nodes: Sequence[Node]) -> str:
    table = Table("node", "GPUs", "CPUs")
    for node in nodes:
        table.add_row(node.name, f"{node.gpus:g}", f"{node.cpus:g}")
    return to_text(table)


def to_text(what: RenderableType, width: int = 120) -> str:
    """Renders a rich object as plain text without control codes, for errors, files and pipes."""
    out = StringIO()
    Console(file=out, width=width, no_color=True, highlight=False).print(what)
    return out.getvalue().rstrip()


def together(roles: RolesConfig, a: str, b: str) -> bool:
    """True if the two roles share a placement group, and therefore GPUs."""
    first, second = (getattr(roles, name).colocate_with or name for name in (a, b))
    return bool(first == second)
