"""How a config is wired, before anything starts."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from actors.build import Builder, Inputs, weight_backend
from actors.config.compose import compose
from actors.config.schema import Config, RoleConfig, RolesConfig, WeightSyncBackend
from actors.placement.placement import together
from rlcore.algorithms.config import AlgorithmConfig, Opponent, PreferenceConfig


def builder(config: Config, device: str = "cpu", **options: bool) -> Builder:
    inputs = Inputs(Path("model"), None, None)  # type: ignore[arg-type]
    return Builder(config, inputs, None, device, ExitStack(), **options)  # type: ignore[arg-type]


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
    assert shared.rollout_arguments(0)[7] > 1.5 * 2**30
    assert apart.rollout_arguments(0)[7] == 0
    assert builder(compose([])).rollout_arguments(0)[7] == 0


def test_every_worker_gets_a_seed_and_the_longest_sequence() -> None:
    config = compose(["seed=7", "data.max_prompt_tokens=10", "rollout.max_new_tokens=5"])
    arguments = [builder(config).rollout_arguments(rank) for rank in range(2)]
    assert [a[6] for a in arguments] == [7, 8]
    assert [a[8] for a in arguments] == [False, False]
    assert builder(compose(["model.float32_head=true"])).rollout_arguments(0)[8] is True
    assert {a[4] for a in arguments} == {15}


@pytest.mark.parametrize("optimizers", [True, False])
def test_models_start_with_or_without_an_optimizer(optimizers: bool) -> None:
    group = MagicMock(name="policy")
    group.__len__.return_value = 2
    group.one.return_value = ("10.0.0.1", 6000)
    builder(compose([]), optimizers=optimizers).start_ranks(group)
    calls = group.submit_scatter.call_args.args[1]
    assert [(spec.rank, spec.optimizer) for (spec,) in calls] == [(0, optimizers), (1, optimizers)]
