"""Placement on a real Ray cluster of several nodes, with made-up GPUs, on one machine."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

from actors.commands.plan import plan
from actors.config.schema import ClusterConfig, Config, DeadlinesConfig, RoleConfig, RolesConfig
from actors.placement.group import ActorGroup
from actors.placement.placement import Placement, PlacementError, cluster_nodes

STORE = 80 * 2**20
UNUSED = {"policy": 0, "rollout": 0, "verifier": 0}


class Where:
    """Reports where Ray put it."""

    def report(self) -> tuple[str, list[int], dict[str, str]]:
        return ray.get_runtime_context().get_node_id(), ray.get_gpu_ids(), dict(os.environ)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head of one CPU, and two nodes of 4 GPUs and 6 CPUs."""
    # Ray notes the newest cluster in its temporary folder, and any ray.init() on the machine would join it.
    folder = tempfile.mkdtemp(prefix="rl")
    before = {k: os.environ.get(k) for k in ("RAY_TMPDIR", "RAY_ADDRESS")}
    os.environ["RAY_TMPDIR"] = folder
    os.environ.pop("RAY_ADDRESS", None)
    head = {"num_cpus": 1, "num_gpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            made.add_node(num_cpus=6, num_gpus=4, object_store_memory=STORE)
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, value)
        shutil.rmtree(folder, ignore_errors=True)


def layout(placement_s: float = 30.0, **roles: RoleConfig) -> ClusterConfig:
    unused = {name: RoleConfig(num_workers=0) for name in UNUSED if name not in roles}
    return ClusterConfig(roles=RolesConfig(**roles, **unused), deadlines=DeadlinesConfig(placement_s=placement_s))


def free_gpus() -> float:
    return sum(node.gpus for node in cluster_nodes(free=True))


def wait_until(condition, timeout_s: float = 20.0) -> bool:
    end = time.monotonic() + timeout_s
    while not (held := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return held


@pytest.fixture
def place(cluster):
    """Placement.create, with everything given back at the end."""
    made: list[Placement] = []

    def create(config: ClusterConfig) -> Placement:
        made.append(Placement.create(config))
        return made[-1]

    yield create
    for placement in made:
        placement.remove()
    assert wait_until(lambda: free_gpus() == 8), "placement groups were not given back"


def report(placement: Placement, role: str) -> list[tuple[str, list[int], dict[str, str]]]:
    group = ActorGroup.create(Where, placement.slots[role], role, {"OMP_NUM_THREADS": "3"})
    try:
        return group.broadcast(Where.report, timeout_s=120, phase="report")
    finally:
        group.shutdown()


def test_roles_apart_lie_on_the_nodes_the_slots_name(place):
    one_gpu = RoleConfig(num_workers=4, gpus_per_worker=1)
    placement = place(layout(policy=one_gpu, rollout=one_gpu))
    policy, rollout = placement.slots["policy"], placement.slots["rollout"]
    assert len(policy) == len(rollout) == 4
    assert len(set(policy.node_ids)) == len(set(rollout.node_ids)) == 1, "PACK keeps a role on one node when it fits"
    assert set(policy.node_ids).isdisjoint(rollout.node_ids)
    seen = report(placement, "policy")
    assert [node for node, _, _ in seen] == list(policy.node_ids)
    assert sorted(gpu for _, gpus, _ in seen for gpu in gpus) == [0, 1, 2, 3]
    assert {env["OMP_NUM_THREADS"] for _, _, env in seen} == {"3"}
    text = placement.render()
    assert policy.node_names[0] in text
    assert "rollout" in text


def test_colocated_workers_of_equal_rank_share_node_and_gpu(place):
    policy = RoleConfig(num_workers=3, gpus_per_worker=1)
    rollout = RoleConfig(num_workers=2, gpus_per_worker=1, colocate_with="policy")
    placement = place(layout(policy=policy, rollout=rollout))
    slots = placement.slots
    assert slots["policy"].placement_group == slots["rollout"].placement_group
    assert slots["policy"].num_gpus == slots["rollout"].num_gpus == 0.5
    groups = [ActorGroup.create(Where, slots[role], role, {}) for role in ("policy", "rollout")]
    pending = [group.submit_broadcast(Where.report, timeout_s=120, phase="report") for group in groups]
    first, second = ([(node, gpus) for node, gpus, _ in p.result()] for p in pending)
    assert first[:2] == second
    assert len({str(where) for where in first}) == 3, "each rank has a GPU of its own"
    for group in groups:
        group.shutdown()


def test_a_role_without_gpus_and_cpus_is_placed_too(place):
    placement = place(layout(verifier=RoleConfig(num_workers=2, cpus_per_worker=0)))
    assert len(report(placement, "verifier")) == 2


def test_verifiers_are_spread_over_the_nodes(place):
    placement = place(layout(verifier=RoleConfig(num_workers=2, cpus_per_worker=2)))
    slots = placement.slots["verifier"]
    assert len(set(slots.node_ids)) == 2
    assert [node for node, _, _ in report(placement, "verifier")] == list(slots.node_ids)


def test_too_many_workers_fail_at_once_and_name_what_is_missing(cluster):
    roles = {"policy": 4, "rollout": 6}
    config = layout(**{role: RoleConfig(num_workers=n, gpus_per_worker=1) for role, n in roles.items()})
    started = time.monotonic()
    with pytest.raises(PlacementError) as caught:
        Placement.create(config)
    text = str(caught.value)
    assert time.monotonic() - started < 10
    assert "2 GPU, 2 CPU" in text
    assert "or use a layout that fits: cluster.roles.rollout.num_workers=4" in text
    assert "add nodes with 2 more GPUs" in text
    assert free_gpus() == 8


def test_a_worker_must_fit_on_one_node(cluster):
    with pytest.raises(PlacementError, match=r"largest has 4 GPUs; lower cluster\.roles\.rollout\.gpus_per_worker"):
        Placement.create(layout(rollout=RoleConfig(gpus_per_worker=8)))
    with pytest.raises(PlacementError, match=r"largest has 6 CPUs; lower cluster\.roles\.rollout\.cpus_per_worker"):
        Placement.create(layout(rollout=RoleConfig(cpus_per_worker=7)))


def test_a_busy_cluster_fails_at_the_deadline_and_keeps_nothing(place):
    held = place(layout(policy=RoleConfig(num_workers=6, gpus_per_worker=1)))
    wanted = layout(1.0, rollout=RoleConfig(num_workers=4, gpus_per_worker=1))
    with pytest.raises(PlacementError) as caught:
        Placement.create(wanted)
    text = str(caught.value)
    assert "phase placement" in text
    assert "rollout: 4 x (1 GPU + 1 CPU)" in text
    assert "deadlines.placement_s" in text
    held.remove()
    held.remove()
    assert wait_until(lambda: free_gpus() == 8)
    assert len(place(wanted).slots["rollout"]) == 4


def test_plan_asks_a_named_cluster_for_its_nodes(cluster):
    config = Config(cluster=layout(policy=RoleConfig(gpus_per_worker=1), rollout=RoleConfig(gpus_per_worker=1)))
    config.cluster.address = cluster.address
    text = plan(config).text
    assert f"Nodes of the Ray cluster at {cluster.address}" in text
    assert ray.is_initialized(), "a connection that was there stays"
