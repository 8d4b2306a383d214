"""Settings of reward model training."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

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
    """How the model's outputs become one reward."""

    first = "first"  # the first attribute alone
    equal = "equal"  # their mean
    nemotron4 = "nemotron4"  # NEMOTRON4_WEIGHTS; an attribute it does not name weighs 0
    given = "given"  # attribute_weights; an attribute it does not name weighs 0


@dataclass
class RewardTrainingConfig:
    """How a reward model is trained. Strengths of preference are numbers on the data's own scale.

    Tables by strength belong to `strength_levels`; between two levels they are interpolated, beyond the ends they stay.
    """

    loss: RewardLoss = RewardLoss.bradley_terry
    strength_levels: list[float] = field(default_factory=lambda: [0.0, 1.0, 2.0, 3.0])  # negligibly to significantly
    margin: Margin = Margin.small
    margin_scale: float = 1.0  # of linear
    margin_table: list[float] = field(default_factory=list)  # of table, one per level
    # chance that the chosen response is better, one per level (Apple, 2407.21075 appendix)
    soft_labels: list[float] = field(default_factory=lambda: [0.65, 0.75, 0.85, 0.95])
    attributes: list[str] = field(default_factory=lambda: ["reward"])  # what the model says of a response, in order
    weighting: Weighting = Weighting.first
    attribute_weights: dict[str, float] = field(default_factory=dict)
    grade_coef: float = 0.0  # times the loss on single responses' grades, added to the loss on pairs
    grade_classes: int = 0  # 0: grades are numbers, squared error; C: classes 0 to C - 1, cross-entropy (Apple: 3)
    per_prompt: bool = True  # every prompt weighs the same, however many pairs it has (InstructGPT equation 1)
    smoothing_beta: float = 0.0  # of iterative data smoothing (2401.16335); 0: labels stay
    epochs: int = 1  # InstructGPT and Llama 2: more overfit
    pairs_per_step: int = 64  # rows, where there are no pairs
    learning_rate: float = 1e-5
    warmup_steps: int = 0
    max_tokens: int = 2048  # of prompt and response together; longer ones are left out, and counted

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

    def problems(self) -> list[str]:
        """What cannot be, each with its key and value; empty when all is well."""
        return [*self._problems_of_strengths(), *self._problems_of_attributes(), *self._problems_of_numbers()]

    def _problems_of_strengths(self) -> list[str]:
        found, levels = [], self.strength_levels
        if sorted(set(levels)) != levels or not levels:
            found.append(f"strength_levels={levels}: must ascend")
        if self.loss is RewardLoss.margin and self.margin is not Margin.linear and len(self.margins) != len(levels):
            found.append(f"margin={self.margin.value}: {len(self.margins)} margins for {len(levels)} strength_levels")
        if self.loss is RewardLoss.soft_label:
            if len(self.soft_labels) != len(levels):
                found.append(f"soft_labels={self.soft_labels}: there are {len(levels)} strength_levels")
            if not all(0 <= p <= 1 for p in self.soft_labels):
                found.append(f"soft_labels={self.soft_labels}: must be probabilities")
        if self.smoothing_beta and self.loss in (RewardLoss.margin, RewardLoss.regression):
            found.append(f"smoothing_beta={self.smoothing_beta}: loss={self.loss.value} has no labels to smooth")
        return found

    def _problems_of_attributes(self) -> list[str]:
        found, names = [], self.attributes
        if not names or len(set(names)) != len(names) or any("=" in n or not n for n in names):
            found.append(f"attributes={names}: must be different names without '='")
        if unknown := sorted(set(self.attribute_weights) - set(self.outputs)):
            found.append(f"attribute_weights: {', '.join(unknown)} is no attribute")
        if not any(self.weights):
            found.append(f"weighting={self.weighting.value}: no attribute of {names} has a weight")
        if self.grade_classes and (self.grade_classes < 2 or self.loss is RewardLoss.regression):
            found.append(f"grade_classes={self.grade_classes}: must be 0 or at least 2, and 0 with loss=regression")
        if self.grade_classes and self.weighting is not Weighting.first:
            found.append(f"grade_classes={self.grade_classes} needs weighting=first: scores of classes are no reward")
        if self.grade_coef and len(names) < 2:
            found.append(f"grade_coef={self.grade_coef}: attributes names no grade behind the first, the reward")
        return found

    def _problems_of_numbers(self) -> list[str]:
        found = [] if 0 <= self.smoothing_beta <= 1 else [f"smoothing_beta={self.smoothing_beta}: must be in [0, 1]"]
        found += [f"{k}={v}: must be at least 1" for k in ("epochs", "pairs_per_step") if (v := getattr(self, k)) < 1]
        if self.learning_rate <= 0 or self.warmup_steps < 0 or self.grade_coef < 0 or self.max_tokens < 2:
            found.append(
                f"learning_rate={self.learning_rate} must be above 0, warmup_steps={self.warmup_steps} and "
                f"grade_coef={self.grade_coef} not negative, max_tokens={self.max_tokens} at least 2"
            )
        return found
