"""The kinds of filters, their options and checks.

A config is a list of dicts, `{kind: length, of: response, max: 4096}`; each kind is a dataclass here.
`of` selects the text: "prompt", "response" or "both" (for pairs, "response" means both responses); None: the default of
the kind, in the comment next to it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from rlcore.data.filters import languages
from rlcore.problems import Problem, bounded
from rlcore.registry import RegistryError, load_function

Of = Literal["prompt", "response", "both"]
Side = Literal["chosen", "rejected", "both"]
ALL = ("prompts", "samples", "pairs")
ANSWERED = ("samples", "pairs")
NOTHING = "without a limit the filter would drop nothing"


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Base class of all kinds."""

    kind: ClassVar[str]
    tables: ClassVar[tuple[str, ...]] = ALL  # kinds of tables that the filter supports
    default_of: ClassVar[Of] = "response"

    def text(self, table_kind: str) -> str:
        """`of` with its default filled in; a table of prompts has only the prompt."""
        return "prompt" if table_kind == "prompts" else getattr(self, "of", None) or self.default_of


@dataclass(frozen=True, kw_only=True)
class DuplicatesConfig(FilterConfig):
    """Drops all but one of equal texts."""

    kind: ClassVar[str] = "duplicates"
    default_of: ClassVar[Of] = "both"
    of: Of | None = None  # None: both
    normalize_space: bool = True  # runs of white space count as one space; leading and trailing space is ignored
    ignore_case: bool = False
    within_prompt: bool = False  # only rows of one uid are compared
    keep: Literal["first", "best"] = "first"  # best: highest score; for pairs the widest margin


@dataclass(frozen=True, kw_only=True)
class NearDuplicatesConfig(FilterConfig):
    """Drops texts with a Jaccard similarity of shingles of at least `threshold` to a kept text."""

    kind: ClassVar[str] = "near_duplicates"
    default_of: ClassVar[Of] = "both"
    of: Of | None = None  # None: both
    threshold: float = bounded(0.8, ge=0.3, le=1)
    unit: Literal["words", "characters"] = "words"  # unit of a shingle
    shingle: int = bounded(3, ge=1)  # size in units; a shorter text is one shingle
    num_hashes: int = bounded(128, ge=16)  # hashes per signature; more find more near duplicates
    within_prompt: bool = False
    keep: Literal["first", "best"] = "first"
    seed: int = 0  # seed of the hash functions


@dataclass(frozen=True, kw_only=True)
class ContaminationConfig(FilterConfig):
    """Drops texts that contain an evaluation text: at least `share` of its word n-grams, or all of a shorter one."""

    kind: ClassVar[str] = "contamination"
    default_of: ClassVar[Of] = "prompt"
    of: Of | None = None  # None: prompt
    # words; Llama 3 (arXiv 2407.21783, section 5.1.4) takes 8, GPT-3 (arXiv 2005.14165, appendix C) 13
    n: int = bounded(8, ge=1)
    share: float = bounded(0.5, gt=0, le=1)  # share of the distinct n-grams of an evaluation text
    max_shared: int = bounded(10, ge=1)  # n-grams of more evaluation texts are boilerplate and not counted (GPT-3)
    short: Literal["equal", "contained"] = "equal"  # comparison of evaluation texts with too few words for n-grams
    sets: list[str] = field(default_factory=list)  # names of evaluation sets; empty: all


@dataclass(frozen=True, kw_only=True)
class LengthConfig(FilterConfig):
    """Drops texts outside of [min, max] in length."""

    kind: ClassVar[str] = "length"
    of: Of | None = None  # None: response
    unit: Literal["tokens", "characters"] = "tokens"
    min: int | None = None
    max: int | None = None

    def problems(self, key: str) -> Iterator[Problem]:
        return _band(self, key)


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(FilterConfig):
    """Drops texts in other languages, detected by py3langid."""

    kind: ClassVar[str] = "language"
    of: Of | None = None  # None: response
    allowed: list[str] = field(default_factory=lambda: ["en"])  # ISO 639-1
    min_characters: int = 20  # shorter texts are kept, since their language cannot be detected

    def problems(self, key: str) -> Iterator[Problem]:
        if importlib.util.find_spec("py3langid") is None:
            yield Problem(f"{key}.kind", self.kind, "it needs the package py3langid", "pip install 'rlcore[rewards]'")
        elif not self.allowed:
            yield Problem(f"{key}.allowed", [], "every row would be dropped", "name a language")
        elif unknown := languages.unknown(self.allowed):
            text = f"{', '.join(unknown)}: unknown to py3langid"
            yield Problem(f"{key}.allowed", self.allowed, text, "give codes of ISO 639-1")


@dataclass(frozen=True, kw_only=True)
class RepetitionConfig(FilterConfig):
    """Drops repetitive texts: share of repeated n-grams, and longest run of one unit."""

    kind: ClassVar[str] = "repetition"
    of: Of | None = None  # None: response
    unit: Literal["words", "characters"] = "words"
    n: int = bounded(4, ge=1)  # max_share limits 1 - distinct n-grams / n-grams
    max_share: float | None = bounded(0.3, ge=0, le=1)
    max_run: int | None = bounded(None, ge=1)  # limit on consecutive equal units

    def problems(self, key: str) -> Iterator[Problem]:
        if self.max_share is None and self.max_run is None:
            yield Problem(f"{key}.max_share", None, NOTHING, "set max_share or max_run")


@dataclass(frozen=True, kw_only=True)
class RegexConfig(FilterConfig):
    """Drops texts that match, or that do not. RE2 syntax, without look-around and references; runs in linear time."""

    kind: ClassVar[str] = "regex"
    of: Of | None = None  # None: response
    pattern: str
    action: Literal["drop", "keep"] = "drop"  # keep: a row is kept only if one of its texts matches
    ignore_case: bool = False

    def problems(self, key: str) -> Iterator[Problem]:
        try:
            pc.match_substring_regex(pa.array([""]), self.pattern, ignore_case=self.ignore_case)
        except pa.ArrowInvalid as error:
            yield Problem(f"{key}.pattern", self.pattern, f"not a valid RE2 pattern: {error}", "RE2 has no look-around")


@dataclass(frozen=True, kw_only=True)
class FinishReasonConfig(FilterConfig):
    """Drops responses with other finish reasons; by default truncated ones."""

    kind: ClassVar[str] = "finish_reason"
    tables: ClassVar[tuple[str, ...]] = ANSWERED
    allowed: list[str] = field(default_factory=lambda: ["stop"])
    side: Side = "both"  # which responses of pairs are checked

    def problems(self, key: str) -> Iterator[Problem]:
        if not self.allowed:
            yield Problem(f"{key}.allowed", [], "every row would be dropped", "name a reason, such as stop")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(FilterConfig):
    """Drops responses with a failed or missing score, or one outside of [min, max]."""

    kind: ClassVar[str] = "score"
    tables: ClassVar[tuple[str, ...]] = ANSWERED
    min: float | None = None
    max: float | None = None
    part: str | None = None  # a named part of the reward instead of its score
    side: Side = "both"  # which responses of pairs are checked

    def problems(self, key: str) -> Iterator[Problem]:
        return _order(key, "min", self.min, self.max)  # without limits it still drops what has no score


@dataclass(frozen=True, kw_only=True)
class MarginConfig(FilterConfig):
    """Drops pairs with a margin outside of [min, max]."""

    kind: ClassVar[str] = "margin"
    tables: ClassVar[tuple[str, ...]] = ("pairs",)
    min: float | None = None
    max: float | None = None
    by: Literal["score", "strength"] = "score"  # chosen minus rejected score, or the strength in the data

    def problems(self, key: str) -> Iterator[Problem]:
        return _band(self, key)


@dataclass(frozen=True, kw_only=True)
class TieConfig(FilterConfig):
    """Drops pairs with scores that differ by at most `tolerance`."""

    kind: ClassVar[str] = "tie"
    tables: ClassVar[tuple[str, ...]] = ("pairs",)
    tolerance: float = bounded(0.0, ge=0)


@dataclass(frozen=True, kw_only=True)
class IdenticalConfig(FilterConfig):
    """Drops pairs with equal responses, ignoring white space."""

    kind: ClassVar[str] = "identical_responses"
    tables: ClassVar[tuple[str, ...]] = ("pairs",)
    ignore_case: bool = False


@dataclass(frozen=True, kw_only=True)
class DifficultyConfig(FilterConfig):
    """Drops prompts with a pass rate (share of scored samples with score >= threshold) outside of [low, high]."""

    kind: ClassVar[str] = "difficulty"
    tables: ClassVar[tuple[str, ...]] = ("prompts", "samples")  # for prompts, the samples come from the context
    threshold: float = 1.0
    low: float = bounded(0.0, ge=0, le=1)
    high: float = bounded(1.0, ge=0, le=1)
    min_samples: int = bounded(1, ge=1)  # minimum number of scored samples; a prompt with fewer is dropped

    def problems(self, key: str) -> Iterator[Problem]:
        return _order(key, "low", self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class PromptCapConfig(FilterConfig):
    """Limits the prompts per source to a number or a share; rows of one prompt are kept or dropped together.

    The draw depends on uid and seed, not on the order of rows."""

    kind: ClassVar[str] = "prompt_cap"
    at_most: int | None = bounded(None, ge=0)
    share: float | None = bounded(None, gt=0, le=1)
    per_source: dict[str, int] = bounded(default_factory=dict, ge=0)  # source -> its own `at_most`
    seed: int | None = None  # None: the seed of the context

    def problems(self, key: str) -> Iterator[Problem]:
        if self.at_most is None and self.share is None and not self.per_source:
            yield Problem(f"{key}.at_most", None, NOTHING, "set at_most, share or per_source")


@dataclass(frozen=True, kw_only=True)
class SamplesPerPromptConfig(FilterConfig):
    """Limits the rows per prompt."""

    kind: ClassVar[str] = "samples_per_prompt"
    tables: ClassVar[tuple[str, ...]] = ANSWERED
    at_most: int = bounded(ge=1)
    keep: Literal["first", "best", "random"] = "first"
    seed: int | None = None  # seed of `random`; None: the seed of the context


@dataclass(frozen=True, kw_only=True)
class FunctionConfig(FilterConfig):
    """A custom function: row as a dict, with `metadata`, `parts` and `info` decoded -> None or a reason."""

    kind: ClassVar[str] = "fn"
    fn: str  # path/to/file.py:function or package.module:function
    options: dict[str, Any] = field(default_factory=dict)  # keyword arguments for the function

    def problems(self, key: str) -> Iterator[Problem]:
        try:
            load_function(self.fn, "filter")
        except RegistryError as error:
            yield Problem(f"{key}.fn", self.fn, str(error), "write path/to/file.py:function")


KINDS: dict[str, type[FilterConfig]] = {kind.kind: kind for kind in FilterConfig.__subclasses__()}


def _band(config: LengthConfig | MarginConfig, key: str) -> Iterator[Problem]:
    if config.min is None and config.max is None:
        yield Problem(f"{key}.min", None, NOTHING, "set min or max")
    yield from _order(key, "min", config.min, config.max)


def _order(key: str, name: str, low: float | None, high: float | None) -> Iterator[Problem]:
    if low is not None and high is not None and low > high:
        yield Problem(f"{key}.{name}", low, f"{low} is above {high}", "it must not be")
