"""Placement arithmetic, without Ray."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.config.schema import RoleConfig, RolesConfig
from actors.placement.placement import Bundle, Node, PlacementError, check_fit, fit, render_table, units


def roles(**given: RoleConfig) -> RolesConfig:
    unused = {name: RoleConfig(num_workers=0) for name in ("policy", "rollout", "verifier") if name not in given}
    return RolesConfig(**given, **unused)


def gpu(num_workers: int = 1, gpus: float = 1, **more) -> RoleConfig:
    return RoleConfig(num_workers=num_workers, gpus_per_worker=gpus, **more)


def test_each_role_gets_a_unit_and_unused_ones_none():
    found = units(roles(policy=gpu(2), rollout=gpu(3), reference=gpu(0)))
    assert [(unit.roles, unit.bundles) for unit in found] == [
        (("policy",), (Bundle(1, 1),) * 2),
        (("rollout",), (Bundle(1, 1),) * 3),
    ]


@pytest.mark.parametrize(
    ("asked", "shares", "bundle"),
    [
        ((1, 1), (0.5, 0.5), 1.0),  # scaled to fit one GPU
        ((0.25, 0.5), (0.25, 0.5), 0.75),  # fits: as asked
        ((1, 0.25), (0.8, 0.2), 1.0),  # scaled in proportion
        ((2, 0), (2, 0), 2.0),  # nothing to share
        ((0, 0), (0, 0), 0.0),
    ],
)
def test_gpu_shares(asked, shares, bundle):
    (unit,) = units(roles(policy=gpu(1, asked[0]), rollout=gpu(1, asked[1], colocate_with="policy")))
    assert unit.roles == ("policy", "rollout")
    assert tuple(unit.shares.values()) == shares
    assert unit.bundles == (Bundle(bundle, 2),)


def test_three_sharing_roles_never_add_up_to_more_than_the_gpu():
    (unit,) = units(
        roles(policy=gpu(), rollout=gpu(colocate_with="policy"), reference=gpu(colocate_with="policy"))
    )  # fmt: skip
    assert sum(unit.shares.values()) <= 1
    assert min(unit.shares.values()) > 0.333


def test_bundles_hold_the_cpus_of_the_roles_that_reach_them():
    policy = RoleConfig(num_workers=3, cpus_per_worker=2)
    (unit,) = units(roles(policy=policy, rollout=RoleConfig(num_workers=1, cpus_per_worker=4, colocate_with="policy")))
    assert [b.cpus for b in unit.bundles] == [6, 2, 2]


def test_the_host_comes_first_even_when_it_is_a_later_role():
    (unit,) = units(roles(policy=gpu(colocate_with="rollout"), rollout=gpu()))
    assert unit.roles == ("rollout", "policy")


@pytest.mark.parametrize("host", ["rolout", "critic", "rollout"])
def test_colocation_with_nothing_or_a_guest_is_refused(host):
    config = roles(policy=gpu(), rollout=gpu(colocate_with="policy"), reference=gpu(colocate_with=host))
    with pytest.raises(PlacementError, match=rf"reference.colocate_with={host}.*such roles: policy"):
        units(config)


def test_sharing_more_than_one_gpu_per_worker_is_refused():
    with pytest.raises(PlacementError, match=r"rollout\.gpus_per_worker=2: .* at most one GPU"):
        units(roles(policy=gpu(), rollout=gpu(1, 2, colocate_with="policy")))


def test_resources_are_never_empty():
    assert Bundle(0, 0).resources() == {"memory": 1.0}
    assert Bundle(1, 0.5).resources() == {"memory": 1.0, "GPU": 1, "CPU": 0.5}


NODES = [Node("a", "one", 4, 8), Node("b", "two", 2, 8)]


def test_big_bundles_are_placed_first():
    wanted = units(roles(policy=gpu(2), rollout=gpu(1, 4)))
    assert [[n.name if n else None for n in homes] for homes in fit(wanted, NODES)] == [["two", "two"], ["one"]]


def test_verifiers_are_spread_and_others_packed():
    wanted = units(roles(policy=gpu(2, 0), verifier=RoleConfig(num_workers=3, cpus_per_worker=1)))
    policy, verifier = fit(wanted, NODES)
    assert [n.name for n in policy] == ["one", "one"]
    assert [n.name for n in verifier] == ["one", "two", "one"]


def test_ten_tenths_fit_one_gpu():
    wanted = units(roles(policy=gpu(10, 0.1, cpus_per_worker=0.1)))
    assert all(fit(wanted, [Node("a", "one", 1, 1)])[0])


def test_no_gpu_at_all_points_to_the_laptop_layout():
    with pytest.raises(PlacementError) as caught:
        check_fit(units(roles(policy=gpu(2))), [Node("a", "one", 0, 8)])
    text = str(caught.value)
    assert "cluster=laptop" in text
    assert "2 GPU, 2 CPU" in text
    assert "num_workers=" not in text, "nothing fits, so no smaller number is offered"


def test_missing_cpus_are_named():
    with pytest.raises(PlacementError, match=r"(?s)0 GPU, 2 CPU.*add 2 CPUs for policy.*policy\.num_workers=8"):
        check_fit(units(roles(policy=RoleConfig(num_workers=10))), [Node("a", "one", 0, 8)])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from([0, 0.5, 1, 2]), st.integers(0, 3)), min_size=2, max_size=2),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12)), min_size=1, max_size=4),
)
def test_no_node_is_given_more_than_it_has(workers, sizes):
    nodes = [Node(str(i), f"node-{i}", gpus, cpus) for i, (gpus, cpus) in enumerate(sizes)]
    (n, g, c), (m, h, d) = workers
    wanted = units(roles(policy=gpu(n, g, cpus_per_worker=c), rollout=gpu(m, h, cpus_per_worker=d)))
    homes = fit(wanted, nodes)
    assert [len(h) for h in homes] == [n, m]
    for node in nodes:
        mine = [b for u, hs in zip(wanted, homes, strict=True) for b, h in zip(u.bundles, hs, strict=True) if h == node]
        assert sum(b.gpus for b in mine) <= node.gpus
        assert sum(b.cpus for b in mine) <= node.cpus
    left = {node.node_id: [node.gpus, node.cpus] for node in nodes}
    for unit, hs in zip(wanted, homes, strict=True):
        for bundle, home in zip(unit.bundles, hs, strict=True):
            if home:
                left[home.node_id][0] -= bundle.gpus
                left[home.node_id][1] -= bundle.cpus
    for unit, hs in zip(wanted, homes, strict=True):
        if None in hs:
            b = unit.bundles[0]
            assert not any(g >= b.gpus and c >= b.cpus for g, c in left.values()), "room was left"


def test_table_shows_shared_gpus_and_nodes():
    config = roles(policy=gpu(2), rollout=gpu(2, colocate_with="policy"))
    text = render_table(config, {"policy": ["one", "one"], "rollout": ["one", "two"]})
    assert "0.5 (shared)" in text
    assert "one x2" in text
    assert "one, two" in text
