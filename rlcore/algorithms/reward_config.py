"""Config of reward model training."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rlcore.problems import Problem, bounded

# Of the five HelpSteer2 attributes, as published with Nemotron-4 340B Reward for use as one reward (its model card;
# the model: arXiv 2406.11704 section 3.1, the data: 2406.08673)
NEMOTRON4_WEIGHTS = {
    "helpfulness": 0.3,
    "correctness": 0.74,
    "coherence": 0.46,
    "complexity": 0.47,
    "verbosity": -0.33,
}
# Llama 2, arXiv 2307.09288 appendix A.3.3, table 27: negligibly better or unsure, slightly better, better,
# significantly better
LLAMA2_MARGINS = {"small": (0.0, 1 / 3, 2 / 3, 1.0), "large": (0.0, 1.0, 2.0, 3.0)}


class RewardLoss(str, enum.Enum):
    bradley_terry = "bradley_terry"  # InstructGPT, arXiv 2203.02155 equation 1
    margin = "margin"  # Llama 2, 2307.09288 equation 2
    soft_label = "soft_label"  # Apple, 2407.21075 section 4.3.1 and appendix
    regression = "regression"  # HelpSteer2, 2406.08673 section 4


class Margin(str, enum.Enum):
    small = "small"  # Llama 2's table "Margin Small"
    large = "large"  # and "Margin Large"
    linear = "linear"  # margin_scale times the strength
    table = "table"  # margin_table


class Weighting(str, enum.Enum):
    """Combination of the model's outputs into one reward."""

    first = "first"  # only the first attribute
    equal = "equal"  # their mean
    nemotron4 = "nemotron4"  # NEMOTRON4_WEIGHTS; other attributes have weight 0
    given = "given"  # attribute_weights; other attributes have weight 0


@dataclass
class RewardTrainingConfig:
    """Training of a reward model. Strengths of preference are numbers on the data's scale.

    Tables by strength refer to `strength_levels`, with linear interpolation between levels and constant values beyond
    the ends.
    """

    loss: RewardLoss = RewardLoss.bradley_terry
    strength_levels: list[float] = field(default_factory=lambda: [0.0, 1.0, 2.0, 3.0])  # negligibly to significantly
    margin: Margin = Margin.small
    margin_scale: float = 1.0  # of linear
    margin_table: list[float] = field(default_factory=list)  # of table, one per level
    # chance that the chosen response is better, one per level (Apple, 2407.21075 appendix)
    soft_labels: list[float] = bounded(default_factory=lambda: [0.65, 0.75, 0.85, 0.95], ge=0, le=1)
    attributes: list[str] = field(default_factory=lambda: ["reward"])  # names of the model's outputs, in order
    weighting: Weighting = Weighting.first
    attribute_weights: dict[str, float] = field(default_factory=dict)
    grade_coef: float = bounded(0.0, ge=0)  # times the loss on single responses' grades, added to the loss on pairs
    grade_classes: int = 0  # 0: grades are numbers, squared error; C: classes 0 to C - 1, cross-entropy (Apple: 3)
    per_prompt: bool = True  # equal weight for every prompt (InstructGPT equation 1)
    smoothing_beta: float = bounded(0.0, ge=0, le=1)  # of iterative data smoothing (2401.16335); 0: labels stay
    epochs: int = bounded(1, ge=1)  # InstructGPT and Llama 2: more overfit
    pairs_per_step: int = bounded(64, ge=1)  # rows, where there are no pairs
    learning_rate: float = bounded(1e-5, gt=0)
    warmup_steps: int = bounded(0, ge=0)
    max_tokens: int = bounded(2048, ge=2)  # of prompt plus response; longer ones are skipped and counted

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's K numbers: the attributes, a grade of classes once per class: `truth=0`, `truth=1`."""
        if not self.grade_classes:
            return tuple(self.attributes)
        grades = (f"{name}={c}" for name in self.attributes[1:] for c in range(self.grade_classes))
        return (*self.attributes[:1], *grades)

    @property
    def weights(self) -> tuple[float, ...]:
        """Of each output in the reward."""
        names = self.outputs
        if self.weighting is Weighting.first:
            return (1.0, *([0.0] * (len(names) - 1)))
        if self.weighting is Weighting.equal:
            return tuple([1 / len(names)] * len(names))
        table = NEMOTRON4_WEIGHTS if self.weighting is Weighting.nemotron4 else self.attribute_weights
        return tuple(float(table.get(name, 0.0)) for name in names)

    @property
    def margins(self) -> tuple[float, ...]:
        """One per strength level; of `linear` they are on its line."""
        if self.margin is Margin.linear:
            return tuple(self.margin_scale * level for level in self.strength_levels)
        return tuple(self.margin_table) if self.margin is Margin.table else LLAMA2_MARGINS[self.margin.value]

    def problems(self, key: str) -> Iterator[Problem]:
        def wrong(name: str, text: str, cure: str) -> Problem:
            value = getattr(self, name)
            return Problem(f"{key}.{name}", getattr(value, "value", value), text, cure)

        yield from self._strengths(wrong)
        names = self.attributes
        if not names or len(set(names)) != len(names) or any("=" in n or not n for n in names):
            yield wrong("attributes", "no names of outputs", "give different names without '='")
        if unknown := sorted(set(self.attribute_weights) - set(self.outputs)):
            yield wrong("attribute_weights", f"{', '.join(unknown)} is no attribute", "see attributes")
        if not any(self.weights):
            yield wrong("weighting", f"no attribute of {names} has a weight", "set attribute_weights, or another one")
        if self.grade_classes and (self.grade_classes < 2 or self.loss is RewardLoss.regression):
            yield wrong("grade_classes", "out of range", "must be 0 or at least 2, and 0 with loss=regression")
        if self.grade_classes and self.weighting is not Weighting.first:
            yield wrong("grade_classes", "scores of classes are no reward", "it needs weighting=first")
        if self.grade_coef and len(names) < 2:
            yield wrong("grade_coef", "attributes names no grade behind the first, the reward", "name one")

    def _strengths(self, wrong: Callable[[str, str, str], Problem]) -> Iterator[Problem]:
        levels = self.strength_levels
        if sorted(set(levels)) != levels or not levels:
            yield wrong("strength_levels", "not in order", "must ascend")
        if self.loss is RewardLoss.margin and self.margin is not Margin.linear and len(self.margins) != len(levels):
            text = f"{len(self.margins)} margins for {len(levels)} strength_levels"
            yield wrong("margin", text, "one per level, or margin=linear")
        if self.loss is RewardLoss.soft_label and len(self.soft_labels) != len(levels):
            yield wrong("soft_labels", f"there are {len(levels)} strength_levels", "give as many")
        if self.smoothing_beta and self.loss in (RewardLoss.margin, RewardLoss.regression):
            yield wrong("smoothing_beta", f"loss={self.loss.value} has no labels to smooth", "set it to 0")
