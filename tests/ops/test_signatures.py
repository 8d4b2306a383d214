"""The shapes in the signatures are true: jaxtyping checks them on real calls."""

import importlib
import inspect
import pkgutil
import typing

import pytest
import torch
from jaxtyping import jaxtyped

import rlcore.ops
from rlcore.ops import policy_losses
from rlcore.ops.advantages import discounted_returns, flat_gae, gae, group_advantages
from rlcore.ops.aggregate import aggregate
from rlcore.ops.kl import kl_estimate
from rlcore.ops.logprobs import entropy, token_logprobs, token_logprobs_and_entropy
from rlcore.ops.masking import masked_mean, masked_whiten
from rlcore.ops.mismatch import importance_weights
from rlcore.ops.preference_losses import kto_reference_point, preference_loss
from rlcore.ops.reward_losses import attribute_regression, bradley_terry, grade_cross_entropy, soft_label
from rlcore.ops.segments import discounted_sums, row_sums
from rlcore.ops.value_losses import clipped_value_loss

X, MASK = torch.randn(2, 3), torch.tensor([[True, True, False], [False, False, False]])
IDS, OFFSETS = torch.tensor([0, 0]), torch.tensor([0, 1, 3])
CALLS = [
    (token_logprobs, (torch.randn(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64))),
    (entropy, (torch.randn(2, 3, 5),)),
    (kl_estimate, (X, X, "k3")),
    (token_logprobs_and_entropy, (torch.randn(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64))),
    (masked_mean, (X, MASK)),
    (masked_whiten, (X, MASK)),
    (gae, (X, X, MASK, 1.0, 1.0)),
    (discounted_returns, (X, MASK, 1.0)),
    (flat_gae, (X[0], X[1], OFFSETS, 1.0, 1.0)),
    (row_sums, (X[0], OFFSETS)),
    (discounted_sums, (X[0], OFFSETS, 0.5)),
    (policy_losses.log_ratio, (X, X, MASK)),
    (policy_losses.ratio, (X,)),
    (group_advantages, (X[:, 0], IDS, "mean", "std")),
    (policy_losses.ppo_clip, (X, X, X, MASK, 0.2, 0.2)),
    (policy_losses.gspo, (X, X, X, MASK, 0.2, 0.2)),
    (policy_losses.cispo, (X, X, X, MASK, 0.2)),
    (policy_losses.reinforce, (X, X, MASK)),
    (policy_losses.mirror_descent, (X, X, X[:, 0], MASK, 0.1)),
    (policy_losses.mdloo, (X, X, X, X[:, 0], IDS, MASK, 0.1, 0.1)),
    (clipped_value_loss, (X, X, X, MASK, 0.2)),
    (aggregate, (X, MASK, "token_mean")),
    (importance_weights, (X, X, MASK, "token", "mask", 0.0, 2.0)),
    (preference_loss, ("dpo", X[0], X[1], X[0], X[1], 0.1)),
    (kto_reference_point, (X[0], X[1])),
    (bradley_terry, (X[0], X[1], X[0])),
    (soft_label, (X[0], X[1], X[0].sigmoid())),
    (attribute_regression, (X, X, MASK)),
    (grade_cross_entropy, (X, X.softmax(1))),
]


@pytest.mark.parametrize(("op", "args"), CALLS, ids=[op.__name__ for op, _ in CALLS])
def test_shapes_of_arguments_and_results(op: typing.Any, args: tuple[typing.Any, ...]) -> None:
    hints = typing.get_type_hints(op)
    bound = inspect.signature(op).bind(*args)
    out = op(*args)
    with jaxtyped("context"):  # one meaning of B and T for all of them
        for name, value in bound.arguments.items():
            assert isinstance(value, hints[name]), f"{name} is not {hints[name]}"
        returned = hints["return"]
        if typing.get_origin(returned) is tuple:
            returned, out = typing.get_args(returned)[0], out[0]
        assert isinstance(out, returned)


NOT_CHECKED = {
    "linear_logprobs": "its head is a tensor or a callable, which no isinstance can tell apart",
    "count_denominator": "a mask alone; returns a float",
}


def test_every_op_with_shapes_is_checked() -> None:
    shaped = set()
    for info in pkgutil.iter_modules(rlcore.ops.__path__):
        module = importlib.import_module(f"rlcore.ops.{info.name}")
        for name, op in inspect.getmembers(module, inspect.isfunction):
            own = op.__module__ == module.__name__ and not name.startswith("_")
            if own and any("[Tensor, " in str(hint) for hint in op.__annotations__.values()):
                shaped.add(name)
    assert shaped == {op.__name__ for op, _ in CALLS} | NOT_CHECKED.keys()


def test_every_public_op_has_a_docstring() -> None:
    for info in pkgutil.iter_modules(rlcore.ops.__path__):
        module = importlib.import_module(f"rlcore.ops.{info.name}")
        for name, op in inspect.getmembers(module, inspect.isfunction):
            if op.__module__ == module.__name__ and not name.startswith("_"):
                assert op.__doc__, f"{info.name}.{name} has no docstring"
