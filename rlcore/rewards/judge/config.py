"""Config of the judge."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rlcore.problems import Problem, bounded


class JudgeKind(str, enum.Enum):
    none = "none"
    engine = "engine"  # a frozen vLLM engine of the role `judge`
    endpoint = "endpoint"  # an OpenAI-compatible endpoint


class JudgeMode(str, enum.Enum):
    pointwise = "pointwise"  # rates each sample by the rubrics
    pairwise = "pairwise"  # win rate of each sample


class JudgeReading(str, enum.Enum):
    text = "text"  # the judge writes text; its verdict is in the last line with one
    choice = "choice"  # one token; the verdict comes from the log-probs of the labels


class JudgeAgainst(str, enum.Enum):
    group = "group"  # the other samples of the prompt
    reference = "reference"  # the row's reference response


@dataclass
class RubricConfig:
    """A pointwise question. Several rubrics give named parts of the score."""

    name: str = "quality"
    text: str = "How helpful, correct and clear the response is."
    weight: float = bounded(1.0, ge=0)  # weight in the mean over the rubrics


@dataclass
class JudgeScaleConfig:
    """The scale of a pointwise judge, mapped to [0, 1]: (score - low) / (high - low)."""

    low: int = 1  # the worst score
    high: int = 10  # the best score


@dataclass
class JudgePromptConfig:
    """Templates; empty: the built-in one of the mode and reading.

    `{prompt}`, `{response}`, `{reference}`, `{rubric}`, `{low}`, `{high}`, `{response_a}` and `{response_b}` are
    substituted; other braces are unchanged.
    """

    pointwise: str = ""  # question about one response
    pairwise: str = ""  # question about two responses
    reference: str = ""  # put before the question if the row has a reference but the template has no {reference}
    reminder: str = ""  # reply to an answer without verdict
    system: str = ""  # system message of the judge
    column: str = ""  # column of the row with the bare question; empty: the prompt that the policy sees


@dataclass
class JudgeReadingConfig:
    how: JudgeReading = JudgeReading.text  # answer format of the judge
    verdict: str = r"\[\[([ABC])\]\]"  # regular expression, one group: A, B, or C for a tie
    score: str = r"\[\[\s*(-?\d+(?:\.\d+)?)\s*\]\]"  # regular expression, one group: a number
    reminders: int = bounded(1, ge=0)  # reminders after an answer without verdict


@dataclass
class JudgeEndpointConfig:
    """Settings of kind `endpoint`."""

    base_url: str | None = None  # for example http://host:8000/v1
    model: str | None = None  # name of the model at the endpoint
    api_env: str = ""  # NAME of the environment variable that holds the key; empty: no key is sent
    max_concurrency: int = bounded(16, ge=1)  # concurrent requests
    retries: int = bounded(4, ge=0)  # retries of a failed request
    request_timeout_s: float = bounded(60.0, gt=0)  # time limit of one request
    deadline_s: float = bounded(180.0, gt=0)  # time limit of one question with its retries
    extra: dict[str, Any] = field(default_factory=dict)  # additional fields of the request, passed through


@dataclass
class JudgeEngineConfig:
    """Settings of kind `engine`: vLLM with the weights of a folder, without weight updates."""

    path: str | None = None  # Hugging Face folder or hub id
    tensor_parallel_size: int = bounded(1, ge=1)  # GPUs per engine
    dtype: str = "auto"  # dtype of the weights; auto: from the folder
    max_model_len: int = bounded(4096, ge=1)  # maximum tokens of question and answer
    max_num_seqs: int = bounded(256, ge=1)  # concurrent questions per engine
    gpu_memory_utilization: float = bounded(0.9, gt=0, le=1)  # share of GPU memory for an engine
    cpu_kv_cache_gib: float = bounded(1.0, gt=0)  # KV cache of an engine on CPU
    enforce_eager: bool = False  # disable compiled graphs
    trust_remote_code: bool = False  # run Python code from the model folder
    chat_template: bool | None = None  # None: if the tokenizer has one
    chat_options: dict[str, Any] = field(default_factory=dict)  # for the chat template, such as enable_thinking
    deadline_s: float = bounded(600.0, gt=0)  # time limit of one call; unanswered questions get a timeout
    max_restarts: int = bounded(3, ge=0)  # restarts of one engine within six hours
    extra: dict[str, Any] = field(default_factory=dict)  # additional vLLM engine arguments


@dataclass
class JudgeConfig:
    kind: JudgeKind = JudgeKind.none  # implementation of the judge
    mode: JudgeMode = JudgeMode.pointwise  # rating of single responses, or comparisons
    against: JudgeAgainst = JudgeAgainst.group  # opponent in pairwise mode
    max_pairs: int = bounded(28, ge=1)  # pairs per group, each judged in both orders; 28 are all pairs of 8
    max_new_tokens: int = bounded(512, ge=1)  # maximum tokens of an answer of the judge
    temperature: float = bounded(0.0, ge=0)  # sampling temperature of the judge
    rubrics: list[RubricConfig] = field(default_factory=lambda: [RubricConfig()])  # questions of a pointwise judge
    scale: JudgeScaleConfig = field(default_factory=JudgeScaleConfig)
    prompts: JudgePromptConfig = field(default_factory=JudgePromptConfig)
    # parsing of the judge's answer
    reading: JudgeReadingConfig = field(default_factory=JudgeReadingConfig)
    engine: JudgeEngineConfig = field(default_factory=JudgeEngineConfig)
    endpoint: JudgeEndpointConfig = field(default_factory=JudgeEndpointConfig)

    def problems(self, key: str) -> Iterator[Problem]:
        """Reads no file and sends no request."""
        scale, names = self.scale, [rubric.name for rubric in self.rubrics]
        if scale.low >= scale.high:
            yield Problem(f"{key}.scale.low", scale.low, f"not below high={scale.high}", "low must be below high")
        single, reads_choice = self.mode is JudgeMode.pointwise, self.reading.how is JudgeReading.choice
        if single and reads_choice and scale.high - scale.low > 19:
            text = f"{scale.low} to {scale.high} are over 20 labels"
            yield Problem(f"{key}.scale.high", scale.high, text, "a choice has at most 20")
        if not names or len(set(names)) < len(names):
            yield Problem(f"{key}.rubrics", names, "none, or two of one name", "at least one, each with a unique name")
        elif not sum(rubric.weight for rubric in self.rubrics) > 0:
            yield Problem(f"{key}.rubrics", names, "all weights are 0", "one must be above 0")
        for name in ("verdict", "score"):
            pattern, cure = getattr(self.reading, name), "give one with exactly one group"
            try:
                if (groups := re.compile(pattern).groups) != 1:
                    yield Problem(f"{key}.reading.{name}", pattern, f"it has {groups} groups", cure)
            except re.error as error:
                yield Problem(f"{key}.reading.{name}", pattern, f"not a regular expression: {error}", cure)
        if self.kind is JudgeKind.engine and not self.engine.path:
            text = f"{key}.kind=engine needs it"
            yield Problem(f"{key}.engine.path", self.engine.path, text, "a model folder or hub id")
        if self.kind is JudgeKind.endpoint:
            yield from endpoint_problems(self.endpoint, f"{key}.endpoint")


def endpoint_problems(endpoint: JudgeEndpointConfig, key: str) -> Iterator[Problem]:
    """Missing and invalid settings of an endpoint that is used."""
    if not (endpoint.base_url or "").startswith(("http://", "https://")):
        text = "reward.judge.kind=endpoint needs a URL"
        yield Problem(f"{key}.base_url", endpoint.base_url, text, "for example http://host:8000/v1")
    if not endpoint.model:
        yield Problem(f"{key}.model", endpoint.model, "reward.judge.kind=endpoint needs it", "name the model")
    if endpoint.api_env and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,60}", endpoint.api_env):
        text = "not the NAME of an environment variable"  # the value is not shown, because it may be a key
        yield Problem(f"{key}.api_env", "...", text, "give the name of the variable, not the key itself")
