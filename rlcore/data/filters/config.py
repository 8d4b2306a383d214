"""The kinds of filters, their options and checks.

A config is a list of dicts, `{kind: length, of: response, max: 4096}`; each kind is a dataclass here.
`of` selects the text: "prompt", "response" or "both" (for pairs, "response" means both responses); None: the default of
the kind, in the comment next to it.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from rlcore.data.filters import languages
from rlcore.registry import RegistryError, load_function

Of = Literal["prompt", "response", "both"]
Side = Literal["chosen", "rejected", "both"]
ALL = ("prompts", "samples", "pairs")
ANSWERED = ("samples", "pairs")


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Base class of all kinds."""

    kind: ClassVar[str]
    tables: ClassVar[tuple[str, ...]] = ALL  # kinds of tables that the filter supports
    default_of: ClassVar[Of] = "response"

    def text(self, table_kind: str) -> str:
        """`of` with its default filled in; a table of prompts has only the prompt."""
        return "prompt" if table_kind == "prompts" else getattr(self, "of", None) or self.default_of

    def problems(self, table_kind: str) -> list[str]:
        """Errors beyond names and types, each as "option: error"."""
        return []


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

    def problems(self, table_kind: str) -> list[str]:
        return _keep(self.keep, table_kind)


@dataclass(frozen=True, kw_only=True)
class NearDuplicatesConfig(FilterConfig):
    """Drops texts with a Jaccard similarity of shingles of at least `threshold` to a kept text."""

    kind: ClassVar[str] = "near_duplicates"
    default_of: ClassVar[Of] = "both"
    of: Of | None = None  # None: both
    threshold: float = 0.8
    unit: Literal["words", "characters"] = "words"  # unit of a shingle
    shingle: int = 3  # size in units; a shorter text is one shingle
    num_hashes: int = 128  # hashes per signature; more find more near duplicates
    within_prompt: bool = False
    keep: Literal["first", "best"] = "first"
    seed: int = 0  # seed of the hash functions

    def problems(self, table_kind: str) -> list[str]:
        found = _keep(self.keep, table_kind)
        found += [] if 0.3 <= self.threshold <= 1 else [f"threshold: {self.threshold} is not in [0.3, 1]"]
        return found + _at_least(self, shingle=1, num_hashes=16)


@dataclass(frozen=True, kw_only=True)
class ContaminationConfig(FilterConfig):
    """Drops texts that contain an evaluation text: at least `share` of its word n-grams, or all of a shorter one."""

    kind: ClassVar[str] = "contamination"
    default_of: ClassVar[Of] = "prompt"
    of: Of | None = None  # None: prompt
    n: int = 8  # words; Llama 3 (arXiv 2407.21783, section 5.1.4) takes 8, GPT-3 (arXiv 2005.14165, appendix C) 13
    share: float = 0.5  # share of the distinct n-grams of an evaluation text
    max_shared: int = 10  # n-grams of more evaluation texts than this are boilerplate and not counted (GPT-3)
    short: Literal["equal", "contained"] = "equal"  # comparison of evaluation texts with too few words for n-grams
    sets: list[str] = field(default_factory=list)  # names of evaluation sets; empty: all

    def problems(self, table_kind: str) -> list[str]:
        found = [] if 0 < self.share <= 1 else [f"share: {self.share} is not in (0, 1]"]
        return found + _at_least(self, n=1, max_shared=1)


@dataclass(frozen=True, kw_only=True)
class LengthConfig(FilterConfig):
    """Drops texts outside of [min, max] in length."""

    kind: ClassVar[str] = "length"
    of: Of | None = None  # None: response
    unit: Literal["tokens", "characters"] = "tokens"
    min: int | None = None
    max: int | None = None

    def problems(self, table_kind: str) -> list[str]:
        return _band(self)


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(FilterConfig):
    """Drops texts in other languages, detected by py3langid."""

    kind: ClassVar[str] = "language"
    of: Of | None = None  # None: response
    allowed: list[str] = field(default_factory=lambda: ["en"])  # ISO 639-1
    min_characters: int = 20  # shorter texts are kept, since their language cannot be detected

    def problems(self, table_kind: str) -> list[str]:
        if importlib.util.find_spec("py3langid") is None:
            return ["kind: needs the package py3langid (pip install 'rlcore[rewards]')"]
        if not self.allowed:
            return ["allowed: is empty"]
        unknown = languages.unknown(self.allowed)
        return [f"allowed: {', '.join(unknown)}: unknown to py3langid"] if unknown else []


@dataclass(frozen=True, kw_only=True)
class RepetitionConfig(FilterConfig):
    """Drops repetitive texts: share of repeated n-grams, and longest run of one unit."""

    kind: ClassVar[str] = "repetition"
    of: Of | None = None  # None: response
    unit: Literal["words", "characters"] = "words"
    n: int = 4  # max_share limits 1 - distinct n-grams / n-grams
    max_share: float | None = 0.3
    max_run: int | None = None  # limit on consecutive equal units

    def problems(self, table_kind: str) -> list[str]:
        found = _at_least(self, n=1, max_run=1)
        if self.max_share is not None and not 0 <= self.max_share <= 1:
            found.append(f"max_share: {self.max_share} is not in [0, 1]")
        if self.max_share is None and self.max_run is None:
            found.append("max_share: neither max_share nor max_run is set, so the filter would drop nothing")
        return found


@dataclass(frozen=True, kw_only=True)
class RegexConfig(FilterConfig):
    """Drops texts that match, or that do not. RE2 syntax, without look-around and references; runs in linear time."""

    kind: ClassVar[str] = "regex"
    of: Of | None = None  # None: response
    pattern: str
    action: Literal["drop", "keep"] = "drop"  # keep: a row is kept only if one of its texts matches
    ignore_case: bool = False

    def problems(self, table_kind: str) -> list[str]:
        try:
            pc.match_substring_regex(pa.array([""]), self.pattern, ignore_case=self.ignore_case)
        except pa.ArrowInvalid as error:
            return [f"pattern: {self.pattern!r} is not a valid RE2 pattern: {error}"]
        return []


@dataclass(frozen=True, kw_only=True)
class FinishReasonConfig(FilterConfig):
    """Drops responses with other finish reasons; by default truncated ones."""

    kind: ClassVar[str] = "finish_reason"
    tables: ClassVar[tuple[str, ...]] = ANSWERED
    allowed: list[str] = field(default_factory=lambda: ["stop"])
    side: Side = "both"  # which responses of pairs are checked

    def problems(self, table_kind: str) -> list[str]:
        return [] if self.allowed else ["allowed: is empty, so every row would be dropped"]


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(FilterConfig):
    """Drops responses with a failed or missing score, or one outside of [min, max]."""

    kind: ClassVar[str] = "score"
    tables: ClassVar[tuple[str, ...]] = ANSWERED
    min: float | None = None
    max: float | None = None
    part: str | None = None  # a named part of the reward instead of its score
    side: Side = "both"  # which responses of pairs are checked

    def problems(self, table_kind: str) -> list[str]:
        return _order("min", self.min, self.max)  # without limits it drops only responses without score


@dataclass(frozen=True, kw_only=True)
class MarginConfig(FilterConfig):
    """Drops pairs with a margin outside of [min, max]."""

    kind: ClassVar[str] = "margin"
    tables: ClassVar[tuple[str, ...]] = ("pairs",)
    min: float | None = None
    max: float | None = None
    by: Literal["score", "strength"] = "score"  # chosen minus rejected score, or the strength in the data

    def problems(self, table_kind: str) -> list[str]:
        return _band(self)


@dataclass(frozen=True, kw_only=True)
class TieConfig(FilterConfig):
    """Drops pairs with scores that differ by at most `tolerance`."""

    kind: ClassVar[str] = "tie"
    tables: ClassVar[tuple[str, ...]] = ("pairs",)
    tolerance: float = 0.0

    def problems(self, table_kind: str) -> list[str]:
        return _at_least(self, tolerance=0)


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
    low: float = 0.0
    high: float = 1.0
    min_samples: int = 1  # minimum number of scored samples; a prompt with fewer is dropped

    def problems(self, table_kind: str) -> list[str]:
        found = [f"{n}: {getattr(self, n)} is not in [0, 1]" for n in ("low", "high") if not 0 <= getattr(self, n) <= 1]
        return found + _order("low", self.low, self.high) + _at_least(self, min_samples=1)


@dataclass(frozen=True, kw_only=True)
class PromptCapConfig(FilterConfig):
    """Limits the prompts per source to a number or a share; rows of one prompt are kept or dropped together.

    The draw depends on uid and seed, not on the order of rows."""

    kind: ClassVar[str] = "prompt_cap"
    at_most: int | None = None
    share: float | None = None
    per_source: dict[str, int] = field(default_factory=dict)  # source -> its own `at_most`
    seed: int | None = None  # None: the seed of the context

    def problems(self, table_kind: str) -> list[str]:
        found = [f"per_source: {name!r} is {n}, not >= 0" for name, n in self.per_source.items() if n < 0]
        if self.share is not None and not 0 < self.share <= 1:
            found.append(f"share: {self.share} is not in (0, 1]")
        if self.at_most is None and self.share is None and not self.per_source:
            found.append("at_most: none of at_most, share and per_source is set, so the filter would drop nothing")
        return found + _at_least(self, at_most=0)


@dataclass(frozen=True, kw_only=True)
class SamplesPerPromptConfig(FilterConfig):
    """Limits the rows per prompt."""

    kind: ClassVar[str] = "samples_per_prompt"
    tables: ClassVar[tuple[str, ...]] = ANSWERED
    at_most: int
    keep: Literal["first", "best", "random"] = "first"
    seed: int | None = None  # seed of `random`; None: the seed of the context

    def problems(self, table_kind: str) -> list[str]:
        return _at_least(self, at_most=1)


@dataclass(frozen=True, kw_only=True)
class FunctionConfig(FilterConfig):
    """A custom function: row as a dict, with `metadata`, `parts` and `info` decoded -> None or a reason."""

    kind: ClassVar[str] = "fn"
    fn: str  # path/to/file.py:function or package.module:function
    options: dict[str, Any] = field(default_factory=dict)  # keyword arguments for the function

    def problems(self, table_kind: str) -> list[str]:
        try:
            load_function(self.fn, "filter")
        except RegistryError as error:
            return [f"fn: {error}"]
        return []


KINDS: dict[str, type[FilterConfig]] = {kind.kind: kind for kind in FilterConfig.__subclasses__()}


def _keep(keep: str, table_kind: str) -> list[str]:
    return ["keep: best needs scores, and prompts have none"] if keep == "best" and table_kind == "prompts" else []


def _at_least(config: FilterConfig, **limits: float) -> list[str]:
    held = {name: getattr(config, name) for name in limits}
    return [f"{n}: {held[n]} is below {low}" for n, low in limits.items() if held[n] is not None and held[n] < low]


def _band(config: LengthConfig | MarginConfig) -> list[str]:
    if config.min is None and config.max is None:
        return ["min: neither min nor max is set, so the filter would drop nothing"]
    return _order("min", config.min, config.max)


def _order(name: str, low: float | None, high: float | None) -> list[str]:
    return [f"{name}: {low} is above {high}"] if low is not None and high is not None and low > high else []
