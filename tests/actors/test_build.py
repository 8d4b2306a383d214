"""How a config is wired, before anything starts."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from actors.build import Builder, Inputs, weight_backend
from actors.config.compose import compose
from actors.config.schema import Config, RoleConfig, RolesConfig, WeightSyncBackend
from actors.placement.placement import together
from rlcore.algorithms.config import AlgorithmConfig, Opponent, PreferenceConfig


def builder(config: Config, device: str = "cpu") -> Builder:
    return Builder(config, Inputs(Path("model"), None, None), None, device, ExitStack())  # type: ignore[arg-type]


def layout(rollout: str | None, reference: str | None, opponent: Opponent = Opponent.reference) -> Config:
    config = Config(algorithm=AlgorithmConfig(preference=PreferenceConfig(opponent=opponent)))
    config.cluster.roles = RolesConfig(
        policy=RoleConfig(gpus_per_worker=1),
        rollout=RoleConfig(gpus_per_worker=1, colocate_with=rollout),
        reference=RoleConfig(gpus_per_worker=1, colocate_with=reference),
    )
    return config


@pytest.mark.parametrize(
    ("rollout", "reference", "shared", "backend"),
    [
        (None, None, (False, False), "nccl"),
        ("policy", "policy", (True, True), "ipc"),
        ("reference", None, (False, True), None),  # the policy by nccl, the reference by ipc: no engine serves both
        ("policy", None, (True, False), None),
    ],
)
def test_one_backend_must_serve_policy_and_reference(
    rollout: str | None, reference: str | None, shared: tuple[bool, bool], backend: str | None
) -> None:
    config = layout(rollout, reference)
    roles = config.cluster.roles
    assert (together(roles, "policy", "rollout"), together(roles, "reference", "rollout")) == shared
    if backend is not None:
        assert weight_backend(config, "cuda") == backend
    else:
        with pytest.raises(ValueError, match=r"set rollout\.weight_sync=host"):
            weight_backend(config, "cuda")
    assert weight_backend(layout(rollout, reference, Opponent.policy), "cuda") == ("ipc" if shared[0] else "nccl")
    assert weight_backend(config, "cpu") == "host"
    config.rollout.weight_sync = WeightSyncBackend.host
    assert weight_backend(config, "cuda") == "host"


def test_an_engine_knows_what_the_others_on_its_gpu_hold() -> None:
    shared, apart = (builder(compose([f"cluster={c}"]), "cuda") for c in ("gpu8_colocated", "gpu8"))
    assert shared.rollout_arguments(0)[-1] > 1.5 * 2**30
    assert apart.rollout_arguments(0)[-1] == 0
    assert builder(compose([])).rollout_arguments(0)[-1] == 0


def test_every_worker_gets_a_seed_and_the_longest_sequence() -> None:
    config = compose(["seed=7", "data.max_prompt_tokens=10", "rollout.max_new_tokens=5"])
    arguments = [builder(config).rollout_arguments(rank) for rank in range(2)]
    assert [a[-2] for a in arguments] == [7, 8]
    assert {a[4] for a in arguments} == {15}
