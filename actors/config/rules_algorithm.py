"""Checks algorithms against roles and batch sizes. Pure: reads only the config."""

from __future__ import annotations

from collections.abc import Iterator

from actors.config.schema import Config
from actors.placement.placement import together
from rlcore.algorithms.config import (
    Aggregation,
    AlgorithmConfig,
    Anchor,
    Baseline,
    CorrectionConfig,
    CorrectionLevel,
    CorrectionMode,
    Family,
    KLPlace,
    Opponent,
    Scale,
)
from rlcore.loops.learning import BUILT_IN
from rlcore.problems import Problem

SAMPLES = "trainer.samples_per_prompt"
STALENESS = "trainer.max_staleness"


def algorithm_problems(c: Config) -> Iterator[Problem]:
    yield from _preference(c) if c.algorithm.family is Family.preference else _policy_gradient(c)
    yield from _roles(c)
    yield from _staleness(c)
    yield from _environment(c)
    a = c.algorithm
    if a.correction.low > a.correction.high:
        cure = f"lower it below algorithm.correction.high={a.correction.high:g}"
        yield Problem("algorithm.correction.low", a.correction.low, "above the upper limit", cure)
    plain = CorrectionConfig(level=CorrectionLevel.none)
    if a.correction.level is CorrectionLevel.none and a.correction != plain:
        text = "without effect: algorithm.correction.level=none uses no importance weights"
        cure = "set level to token or sequence, or leave mode, low and high out"
        yield Problem("algorithm.correction", a.correction, text, cure, True)
    if a.refill_rounds > 0 and not (a.filters.zero_variance or a.filters.truncated or a.family is Family.preference):
        text, cure = "no filter drops samples, so none are refilled", "set algorithm.filters.zero_variance=true"
        yield Problem("algorithm.refill_rounds", a.refill_rounds, text, cure, True)


def _environment(c: Config) -> Iterator[Problem]:
    e, a = c.environment, c.algorithm
    if e.fn is None:
        return
    if a.family is Family.preference and a.preference.opponent is Opponent.reference:
        text = "rollouts of several turns are sampled from the policy alone"
        yield Problem("algorithm.preference.opponent", "reference", text, "set it to policy")
    if a.overlong_buffer:
        text = "counts the tokens of one response, and a rollout has those of tools too"
        yield Problem("algorithm.overlong_buffer", a.overlong_buffer, text, "set it to 0")
    if c.trainer.warmup.steps:
        text = "trains on reference answers without turns and tools"
        cure = "set it to 0, and start from a model that knows how to call tools"
        yield Problem("trainer.warmup.steps", c.trainer.warmup.steps, text, cure, True)
    limit = c.rollout.max_model_len
    if e.max_tokens is not None and limit is not None and e.max_tokens > limit:
        yield Problem("environment.max_tokens", e.max_tokens, f"more than rollout.max_model_len={limit}", "lower it")


def _names(a: AlgorithmConfig) -> Iterator[Problem]:
    """Imports the files of the user, which may register names."""
    from rlcore.algorithms.advantages import find_advantage  # they import torch
    from rlcore.algorithms.policy_gradient import find_loss
    from rlcore.registry import RegistryError

    for key, find in (("advantage", find_advantage), ("loss", find_loss)):
        try:
            find(a)
        except RegistryError as error:
            yield Problem(f"algorithm.{key}", getattr(a, key), str(error), "your own: algorithm.files=[path.py]")


def _policy_gradient(c: Config) -> Iterator[Problem]:
    yield from _names(c.algorithm)
    a, one = c.algorithm, c.trainer.samples_per_prompt == 1
    if a.advantage == "group" and one and a.baseline is not Baseline.none:
        cure = "sample at least 2, or set algorithm.baseline=none"
        text = f"algorithm.baseline={a.baseline.value} compares the samples of a prompt: all advantages would be 0"
        yield Problem(SAMPLES, 1, text, cure)
    if a.advantage == "group" and one and a.scale is Scale.std:
        cure = "sample at least 2, or set algorithm.scale=none or batch_std"
        yield Problem(SAMPLES, 1, "algorithm.scale=std needs several samples: all advantages would be 0", cure)
    if a.advantage == "nash_md" and one:
        text = "algorithm.advantage=nash_md compares the samples of a prompt"
        yield Problem(SAMPLES, 1, text, "sample at least 2")
    if a.aggregation_constant is not None and a.aggregation is not Aggregation.seq_sum_constant:
        cure = "set algorithm.aggregation=seq_sum_constant, or set the constant to null"
        text = f"not used by algorithm.aggregation={a.aggregation.value}"
        yield Problem("algorithm.aggregation_constant", a.aggregation_constant, text, cure, True)
    if a.loss == "reinforce" and c.trainer.updates_per_step * c.trainer.epochs_per_step > 1:
        text = "has no ratio: every update after the first of a step is off-policy"
        yield Problem("algorithm.loss", a.loss, text, "trainer.updates_per_step=1, or a loss with a ratio", True)
    if a.loss == "mdloo" and a.aggregation is not Aggregation.seq_mean_token_sum:
        text = "does not fit loss=mdloo, which gives every token its share of the response's loss"
        yield Problem("algorithm.aggregation", a.aggregation, text, "algorithm.aggregation=seq_mean_token_sum", True)
    if a.kl_target is not None and (a.kl_coef == 0 or a.kl_in is KLPlace.loss):
        text = "an adaptive coefficient needs a KL in the reward and starts from kl_coef"
        cure = "set algorithm.kl_in=reward and kl_coef above 0, or kl_target=null"
        yield Problem("algorithm.kl_target", a.kl_target, text, cure)
    yield from _kl(a)
    yield from _anchor(a)
    yield from _unused(a)


def _kl(a: AlgorithmConfig) -> Iterator[Problem]:
    wrong = {KLPlace.reward: ("k2", "k3"), KLPlace.loss: ("k1",)}[a.kl_in]
    if a.kl_coef > 0 and a.kl_kind.value in wrong:
        text = (
            "k1 in the loss has an expected gradient of 0: the KL would only be noise"
            if a.kl_in is KLPlace.loss
            else f"{a.kl_kind.value} in the reward pushes away from the reference as often as towards it"
        )
        cure = f"algorithm.kl_kind=auto ({'k3' if a.kl_in is KLPlace.loss else 'k1'} for kl_in={a.kl_in.value})"
        yield Problem("algorithm.kl_kind", a.kl_kind.value, text, cure)
    if a.kl_weighted and (a.kl_coef == 0 or a.kl_in is KLPlace.reward):
        text, cure = "weights a KL in the loss, but there is none", "set it to false, or algorithm.kl_in=loss"
        yield Problem("algorithm.kl_weighted", True, text, cure, True)
    terms = [f"algorithm.{name}={getattr(a, name):g}" for name in ("kl_coef", "entropy_coef") if getattr(a, name)]
    if a.filters.zero_variance and terms:
        text = f"groups of equal scores are dropped, though {' and '.join(terms)} would train on them"
        cure = "set it to false, or the coefficients to 0"
        yield Problem("algorithm.filters.zero_variance", True, text, cure, True)


def _anchor(a: AlgorithmConfig) -> Iterator[Problem]:
    if a.anchor is Anchor.trainer:
        return
    key, value = "algorithm.anchor", a.anchor.value
    if a.loss == "reinforce":
        text = "algorithm.loss=reinforce has no ratio: nothing would account for the difference to the sampler"
        yield Problem(key, value, text, "set it to trainer, or a loss with a ratio, such as algorithm.loss=cispo")
    elif a.correction.level is not CorrectionLevel.none:
        text = "with algorithm.anchor=rollout the ratio contains this weight: it would count twice"
        cure = "set it to none (algorithm=grpo_rollout has both), or algorithm.anchor=trainer"
        yield Problem("algorithm.correction.level", a.correction.level.value, text, cure)


def _staleness(c: Config) -> Iterator[Problem]:
    """Sampling that runs ahead of training."""
    a, steps, every = c.algorithm, c.trainer.max_staleness, c.trainer.publish_every
    if every > steps + 1:
        text = f"with {STALENESS}={steps} a step would wait for weights that are published after it"
        cure = f"at most {steps + 1}, or {STALENESS}={every - 1}"
        yield Problem("trainer.publish_every", every, text, cure)
    if steps < 1:
        return
    if a.family is Family.preference and a.preference.opponent is Opponent.reference:
        text = "the engines would need the weights of policy and reference at the same time"
        yield Problem(STALENESS, steps, text, "set it to 0, or algorithm.preference.opponent=policy")
    if c.rollout.sleep_level > 0 and together(c.cluster.roles, "policy", "rollout"):
        text = f"the engines work while the policy trains, with rollout.sleep_level={c.rollout.sleep_level} they sleep"
        cure = "set rollout.sleep_level=0 (cluster=gpu1_shared), separate GPUs (cluster=gpu8), or max_staleness=0"
        yield Problem(STALENESS, steps, text, cure)
    masked = a.correction.mode is CorrectionMode.mask and a.correction.level is not CorrectionLevel.none
    if steps < 2 or a.family is Family.preference or a.loss not in OWN_LOSSES or a.anchor is Anchor.rollout or masked:
        return
    weighted = a.correction.level is not CorrectionLevel.none
    text = "the clip is around the trainer's present weights: for the age of samples "
    text += "only a truncated importance weight accounts" if weighted else "nothing accounts"
    mask = "algorithm.correction.mode=mask" + ("" if weighted else " with level=token")
    anchor = "" if a.loss == "reinforce" else "algorithm.anchor=rollout with algorithm.correction.level=none, or "
    presets = "" if a.loss != "ppo_clip" else " (such as algorithm=grpo_rollout or grpo_icepop)"
    yield Problem(STALENESS, steps, text, f"set {anchor}{mask}{presets}, or max_staleness=1")


# Key -> losses or advantages that read it. A registered function may read every key.
READERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dual_clip": ("loss", ("ppo_clip",)),
    "clip_low": ("loss", ("ppo_clip", "gspo")),
    "clip_high": ("loss", ("ppo_clip", "gspo", "cispo")),
    "step_kl_coef": ("loss", ("mdloo",)),
    "baseline": ("advantage", ("group",)),
    "scale": ("advantage", ("group",)),
    "nash_mixture": ("advantage", ("nash_md",)),
    "gamma": ("advantage", ("gae", "returns")),
    "lam": ("advantage", ("gae",)),
}
OWN_LOSSES = ("ppo_clip", "gspo", "cispo", "reinforce", "mdloo")


def _unused(a: AlgorithmConfig) -> Iterator[Problem]:
    """Changed keys that the chosen loss or advantage does not read."""
    default = AlgorithmConfig()
    for key, (by, readers) in READERS.items():
        chosen, value = getattr(a, by), getattr(a, key)
        if chosen in readers or chosen not in (*OWN_LOSSES, *BUILT_IN) or value == getattr(default, key):
            continue
        text = f"not used by algorithm.{by}={chosen}"
        cure = f"keep its default, or set algorithm.{by}={' or '.join(readers)}"
        yield Problem(f"algorithm.{key}", value, text, cure, True)


def _preference(c: Config) -> Iterator[Problem]:
    a, p, samples = c.algorithm, c.algorithm.preference, c.trainer.samples_per_prompt
    if samples < 2:
        yield Problem(SAMPLES, samples, f"{a.name} compares the samples of a prompt", "sample at least 2")
    elif p.opponent is Opponent.reference and samples % 2:
        text = f"{a.name} takes half of the samples from the policy, half from the reference"
        yield Problem(SAMPLES, samples, text, f"an even number, such as {samples + 1}")
    elif p.pairs_per_prompt > samples // 2:
        text, cure = f"{samples} samples give at most {samples // 2} pairs", f"at most {samples // 2}, or more samples"
        yield Problem("algorithm.preference.pairs_per_prompt", p.pairs_per_prompt, text, cure, True)
    if p.opponent is Opponent.reference and a.refill_rounds > 0:
        text = "each refill round would have to switch the weights back and forth"
        yield Problem("algorithm.refill_rounds", a.refill_rounds, text, "set it to 0, or preference.opponent=policy")
    for name in ("zero_variance", "truncated"):
        if getattr(a.filters, name):
            text, cure = "pairs are chosen from whole groups; ties never give a pair", "set it to false"
            yield Problem(f"algorithm.filters.{name}", True, text, cure)
    if a.kl_coef > 0:
        text = "in preference losses preference.beta controls the distance to the reference; no KL term is added"
        yield Problem("algorithm.kl_coef", a.kl_coef, text, "set it to 0")
    if a.entropy_coef > 0:
        yield Problem("algorithm.entropy_coef", a.entropy_coef, "not part of a preference loss", "set it to 0")
    if a.anchor is Anchor.rollout:
        text = "a preference loss has no ratio to the policy that sampled"
        yield Problem("algorithm.anchor", a.anchor.value, text, "set it to trainer")


def _roles(c: Config) -> Iterator[Problem]:
    a, roles = c.algorithm, c.cluster.roles
    reference, critic = "cluster.roles.reference.num_workers", "cluster.roles.critic.num_workers"
    built_in = a.family is Family.preference or a.advantage in BUILT_IN
    if a.needs_reference and roles.reference.num_workers < 1:
        if a.family is Family.policy_gradient and a.kl_coef > 0:
            text, cure = "a KL term needs the role reference", f"set {reference}=1, or kl_coef=0"
            yield Problem("algorithm.kl_coef", a.kl_coef, text, cure)
        else:
            yield Problem(reference, 0, f"algorithm {a.name} needs the role reference", "set it to 1")
    elif not a.needs_reference and roles.reference.num_workers > 0 and built_in:
        text = f"the reference is started but algorithm {a.name} (kl_coef={a.kl_coef:g}) never uses it"
        yield Problem(reference, roles.reference.num_workers, text, "set it to 0, or kl_coef above 0", True)
    if a.needs_critic and roles.critic.num_workers < 1:
        text = f"algorithm.advantage={a.advantage} (algorithm {a.name}) needs the role critic"
        cure = "set it to 1 (on one machine: cluster=laptop_critic), or use an algorithm without one, such as grpo"
        yield Problem(critic, 0, text, cure)
    elif not a.needs_critic and roles.critic.num_workers > 0 and built_in:
        text = f"the critic is started but algorithm {a.name} never asks it"
        yield Problem(critic, roles.critic.num_workers, text, "set it to 0, or algorithm.advantage=gae", True)
    if a.critic_warmup_steps > 0 and roles.critic.num_workers < 1:
        text, cure = "there is no critic to warm up", "set it to 0"
        yield Problem("algorithm.critic_warmup_steps", a.critic_warmup_steps, text, cure, True)
