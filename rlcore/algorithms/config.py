"""Config of an algorithm. A preset in `conf/algorithm/` is a set of values, not a class."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from rlcore.problems import bounded


class Family(str, enum.Enum):
    policy_gradient = "policy_gradient"  # rewards to advantages, a loss per token
    preference = "preference"  # rewards to pairs of samples, a loss per pair


class Baseline(str, enum.Enum):
    mean = "mean"
    leave_one_out = "leave_one_out"
    none = "none"


class Scale(str, enum.Enum):
    std = "std"
    batch_std = "batch_std"
    none = "none"


class Aggregation(str, enum.Enum):
    token_mean = "token_mean"
    seq_mean_token_mean = "seq_mean_token_mean"
    seq_mean_token_sum = "seq_mean_token_sum"
    seq_sum_constant = "seq_sum_constant"


class Anchor(str, enum.Enum):
    """Log-probs that the ratio of a policy loss is taken against."""

    trainer = "trainer"  # the policy at batch start; the importance weight `correction` accounts for the sampler
    rollout = "rollout"  # the sampler: the clip also bounds how far the policy has moved since sampling


class KLKind(str, enum.Enum):
    auto = "auto"  # k1 in the reward, k3 in the loss: see the gradients in rlcore.ops.kl
    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


class KLPlace(str, enum.Enum):
    loss = "loss"  # a term of the loss, differentiated
    reward = "reward"  # subtracted from the reward of every token, as sampled


class PreferenceKind(str, enum.Enum):
    """See `rlcore.ops.preference_losses`; `xpo` is `dpo` with an exploration bonus."""

    dpo = "dpo"
    dpo_norm = "dpo_norm"
    cdpo = "cdpo"
    robust = "robust"
    ipo = "ipo"
    ipo_sum = "ipo_sum"
    hinge = "hinge"
    simpo = "simpo"
    rpo_sq = "rpo_sq"
    rpo_fwd_kl = "rpo_fwd_kl"
    rpo_bwd_kl = "rpo_bwd_kl"
    sppo = "sppo"
    xpo = "xpo"


class Opponent(str, enum.Enum):
    policy = "policy"  # all samples of a prompt come from the policy
    reference = "reference"  # half of them come from the reference model, for XPO


class CorrectionLevel(str, enum.Enum):
    none = "none"
    token = "token"
    sequence = "sequence"


class CorrectionMode(str, enum.Enum):
    truncate = "truncate"
    mask = "mask"


@dataclass
class CorrectionConfig:
    """Importance weights between the sampler's and the trainer's log-probs; not applied with `anchor=rollout`."""

    level: CorrectionLevel = CorrectionLevel.token  # one weight per token, per sequence, or none
    # weights beyond the limits are truncated (TIS), or set to 0 (IcePop)
    mode: CorrectionMode = CorrectionMode.truncate
    low: float = bounded(0.0, ge=0)  # lowest weight
    high: float = bounded(2.0, gt=0, le=math.inf)  # highest weight


@dataclass
class FilterConfig:
    zero_variance: bool = False  # drop groups with equal scores, since they give no gradient
    truncated: bool = False  # drop samples truncated by the length limit


@dataclass
class PreferenceConfig:
    """Online preference learning: the best against the worst sample of a prompt."""

    loss: PreferenceKind = PreferenceKind.dpo  # see rlcore.ops.preference_losses
    beta: float = bounded(0.1, gt=0)  # strength of the pull to the reference
    label_smoothing: float = bounded(0.0, ge=0, le=0.49)  # probability of a wrong label, for cdpo and robust
    gamma: float = bounded(0.0, ge=0)  # target margin of simpo
    eta: float = bounded(1.0, gt=0)  # scale of the reward difference in the rpo losses
    sft_coef: float = bounded(0.0, ge=0)  # weight of the added negative log-likelihood per token of the chosen response
    pairs_per_prompt: int = bounded(1, ge=1)  # maximum pairs: best against worst, second best against second worst, ...
    min_margin: float = bounded(0.0, ge=0)  # rewards of a pair must differ by more; equal rewards never give a pair
    opponent: Opponent = Opponent.policy  # model of the second response of a pair
    explore_coef: float = bounded(1e-5, ge=0)  # alpha of xpo


@dataclass
class AlgorithmConfig:
    name: str = "grpo"  # name of the preset, for messages
    family: Family = Family.policy_gradient  # policy gradient, or preferences between samples
    files: list[str] = field(default_factory=list)  # Python files that register custom advantages and losses
    advantage: str = "group"  # group, gae, returns, nash_md, or a registered name
    baseline: Baseline = Baseline.mean  # of group
    scale: Scale = Scale.std  # of group
    nash_mixture: float = bounded(0.125, ge=0, le=1)  # share of the reference in nash_md's opponent; 0: only the policy
    gamma: float = bounded(1.0, ge=0, le=1)  # discount per token, for gae and returns
    lam: float = bounded(1.0, ge=0, le=1)  # of gae
    whiten: bool = False  # normalise advantages to mean 0 and deviation 1 over all trained tokens of a step
    loss: str = "ppo_clip"  # ppo_clip, gspo, cispo, reinforce, mdloo, or a registered name
    anchor: Anchor = Anchor.trainer  # log-probs in the ratio's denominator: the trainer's or the sampler's
    clip_low: float = bounded(0.2, gt=0, le=1)  # the ratio is clipped below 1 - clip_low
    clip_high: float = bounded(0.2, gt=0, le=math.inf)  # the ratio is clipped above 1 + clip_high
    dual_clip: float | None = bounded(None, gt=1)  # bound on the loss of bad tokens (arXiv 1912.09729); None: no bound
    aggregation: Aggregation = Aggregation.token_mean  # reduction of token losses
    aggregation_constant: float | None = bounded(None, gt=0)  # denominator of seq_sum_constant; None: max_new_tokens
    kl_coef: float = bounded(0.0, ge=0)  # coefficient of the KL to the reference; 0 needs no reference role
    kl_kind: KLKind = KLKind.auto  # estimator of the KL
    kl_in: KLPlace = KLPlace.loss  # place of the KL to the reference
    kl_clamp: float | None = bounded(10.0, gt=0, le=math.inf)  # bound on log-ratios and estimates, in nats
    kl_weighted: bool = False  # weight the KL in the loss by the ratio: unbiased in later updates too
    kl_target: float | None = bounded(None, gt=0)  # of an adaptive kl_coef, nats per response; None: fixed
    kl_horizon: int = bounded(10_000, ge=1)  # time constant of an adaptive kl_coef, in samples
    step_kl_coef: float = bounded(0.0, ge=0)  # coefficient of the KL to the sampling policy, for mdloo
    entropy_coef: float = 0.0  # coefficient of an entropy bonus
    value_clip: float | None = bounded(0.2, gt=0)  # of the critic's loss
    critic_warmup_steps: int = bounded(0, ge=0)  # number of first steps that train only the critic
    overlong_buffer: float = bounded(0.0, ge=0, le=1)  # share of max_new_tokens where the penalty grows; 0: none
    overlong_penalty: float = bounded(1.0, ge=0)  # length penalty at max_new_tokens, subtracted from the reward
    refill_rounds: int = bounded(0, ge=0)  # more rounds of sampling if filters leave too few prompts
    correction: CorrectionConfig = field(default_factory=CorrectionConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)  # samples and groups excluded from training
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)

    @property
    def kl_estimator(self) -> str:
        """`kl_kind`, with `auto` resolved by `kl_in`."""
        if self.kl_kind is KLKind.auto:
            return "k1" if self.kl_in is KLPlace.reward else "k3"
        return str(self.kl_kind.value)

    @property
    def learns_from_one_sample(self) -> bool:
        """True if a prompt with a single scored sample has a gradient, from its advantage or a KL or entropy term."""
        compared = self.advantage == "nash_md" or (
            self.advantage == "group" and (self.baseline is not Baseline.none or self.scale is Scale.std)
        )
        return not compared or self.kl_coef != 0 or self.entropy_coef != 0

    @property
    def needs_critic(self) -> bool:
        return self.family is Family.policy_gradient and self.advantage == "gae"

    @property
    def needs_reference(self) -> bool:
        if self.family is Family.preference:
            return self.preference.loss is not PreferenceKind.simpo
        return self.kl_coef > 0 or self.advantage == "nash_md"
