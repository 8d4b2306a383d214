"""The kinds of filters, their options, with what each refuses.

A config is a list of dicts, `{kind: length, of: response, max: 4096}`; each kind is a dataclass here.
`of` says which text is looked at: "prompt", "response" or "both" (of pairs, "response" is both responses); None: the
kind's own default, named beside it.
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
    """What all kinds have."""

    kind: ClassVar[str]
    tables: ClassVar[tuple[str, ...]] = ALL  # kinds of tables it can be used on
    default_of: ClassVar[Of] = "response"

    def text(self, table_kind: str) -> str:
        """`of`, with its default filled in; of prompts there is nothing but the prompt."""
        return "prompt" if table_kind == "prompts" else getattr(self, "of", None) or self.default_of

    def problems(self, table_kind: str) -> list[str]:
        """What is wrong beyond names and types, each as "option: what"."""
        return []


@dataclass(frozen=True, kw_only=True)
class DuplicatesConfig(FilterConfig):
    """Texts that are equal: one of them stays."""

    kind: ClassVar[str] = "duplicates"
    default_of: ClassVar[Of] = "both"
    of: Of | None = None  # None: both
    normalize_space: bool = True  # runs of white space are one space, none at the ends
    ignore_case: bool = False
    within_prompt: bool = False  # only rows of one uid are compared
    keep: Literal["first", "best"] = "first"  # best: highest score, of pairs the widest margin

    def problems(self, table_kind: str) -> list[str]:
        return _keep(self.keep, table_kind)


@dataclass(frozen=True, kw_only=True)
class NearDuplicatesConfig(FilterConfig):
    """Texts whose sets of shingles have a Jaccard similarity of at least `threshold` with one that stays."""

    kind: ClassVar[str] = "near_duplicates"
    default_of: ClassVar[Of] = "both"
    of: Of | None = None  # None: both
    threshold: float = 0.8
    unit: Literal["words", "characters"] = "words"  # of a shingle
    shingle: int = 3  # units; a shorter text is one shingle
    num_hashes: int = 128  # of a signature; more find more
    within_prompt: bool = False
    keep: Literal["first", "best"] = "first"
    seed: int = 0  # of the hash functions

    def problems(self, table_kind: str) -> list[str]:
        found = _keep(self.keep, table_kind)
        found += [] if 0.3 <= self.threshold <= 1 else [f"threshold: {self.threshold} is not in [0.3, 1]"]
        return found + _at_least(self, shingle=1, num_hashes=16)


@dataclass(frozen=True, kw_only=True)
class ContaminationConfig(FilterConfig):
    """Texts that hold an evaluation text: at least `share` of its n-grams of words, or all of a shorter one."""

    kind: ClassVar[str] = "contamination"
    default_of: ClassVar[Of] = "prompt"
    of: Of | None = None  # None: prompt
    n: int = 8  # words; Llama 3 (arXiv 2407.21783, section 5.1.4) takes 8, GPT-3 (arXiv 2005.14165, appendix C) 13
    share: float = 0.5  # of an evaluation text's distinct n-grams
    max_shared: int = 10  # n-grams of more evaluation texts than this are boilerplate and not counted (GPT-3)
    short: Literal["equal", "contained"] = "equal"  # how texts with too few words for n-grams are compared
    sets: list[str] = field(default_factory=list)  # of the context's; empty: all

    def problems(self, table_kind: str) -> list[str]:
        found = [] if 0 < self.share <= 1 else [f"share: {self.share} is not in (0, 1]"]
        return found + _at_least(self, n=1, max_shared=1)


@dataclass(frozen=True, kw_only=True)
class LengthConfig(FilterConfig):
    """Length of each text that `of` names."""

    kind: ClassVar[str] = "length"
    of: Of | None = None  # None: response
    unit: Literal["tokens", "characters"] = "tokens"
    min: int | None = None
    max: int | None = None

    def problems(self, table_kind: str) -> list[str]:
        return _band(self)


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(FilterConfig):
    """Texts in other languages, as py3langid tells them."""

    kind: ClassVar[str] = "language"
    of: Of | None = None  # None: response
    allowed: list[str] = field(default_factory=lambda: ["en"])  # ISO 639-1
    min_characters: int = 20  # shorter texts stay: their language cannot be told

    def problems(self, table_kind: str) -> list[str]:
        if importlib.util.find_spec("py3langid") is None:
            return ["kind: needs the package py3langid (pip install 'rlcore[rewards]')"]
        if not self.allowed:
            return ["allowed: names no language"]
        unknown = languages.unknown(self.allowed)
        return [f"allowed: {', '.join(unknown)}: no language that py3langid knows"] if unknown else []


@dataclass(frozen=True, kw_only=True)
class RepetitionConfig(FilterConfig):
    """Texts that say the same again: share of repeated n-grams, and longest run of one unit."""

    kind: ClassVar[str] = "repetition"
    of: Of | None = None  # None: response
    unit: Literal["words", "characters"] = "words"
    n: int = 4  # the share is 1 - distinct n-grams / n-grams
    max_share: float | None = 0.3
    max_run: int | None = None  # of equal units, one behind the other

    def problems(self, table_kind: str) -> list[str]:
        found = _at_least(self, n=1, max_run=1)
        if self.max_share is not None and not 0 <= self.max_share <= 1:
            found.append(f"max_share: {self.max_share} is not in [0, 1]")
        if self.max_share is None and self.max_run is None:
            found.append("max_share: neither it nor max_run is set, so nothing would be dropped")
        return found


@dataclass(frozen=True, kw_only=True)
class RegexConfig(FilterConfig):
    """Texts that match, or do not. Syntax of RE2, without look-around and references, which runs in linear time."""

    kind: ClassVar[str] = "regex"
    of: Of | None = None  # None: response
    pattern: str
    action: Literal["drop", "keep"] = "drop"  # keep: a row stays only if one of the texts matches
    ignore_case: bool = False

    def problems(self, table_kind: str) -> list[str]:
        try:
            pc.match_substring_regex(pa.array([""]), self.pattern, ignore_case=self.ignore_case)
        except pa.ArrowInvalid as error:
            return [f"pattern: {self.pattern!r} is no RE2 pattern: {error}"]
        return []


@dataclass(frozen=True, kw_only=True)
class FinishReasonConfig(FilterConfig):
    """Responses that ended otherwise; by default those cut off."""

    kind: ClassVar[str] = "finish_reason"
    tables: ClassVar[tuple[str, ...]] = ANSWERED
    allowed: list[str] = field(default_factory=lambda: ["stop"])
    side: Side = "both"  # of pairs

    def problems(self, table_kind: str) -> list[str]:
        return [] if self.allowed else ["allowed: is empty, so every row would be dropped"]


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(FilterConfig):
    """Responses with a failed or missing score, or one out of [min, max]."""

    kind: ClassVar[str] = "score"
    tables: ClassVar[tuple[str, ...]] = ANSWERED
    min: float | None = None
    max: float | None = None
    part: str | None = None  # a named part of the score instead of all of it
    side: Side = "both"  # of pairs

    def problems(self, table_kind: str) -> list[str]:
        return _order("min", self.min, self.max)  # without limits it still drops what has no score


@dataclass(frozen=True, kw_only=True)
class MarginConfig(FilterConfig):
    """Pairs whose difference is out of [min, max]."""

    kind: ClassVar[str] = "margin"
    tables: ClassVar[tuple[str, ...]] = ("pairs",)
    min: float | None = None
    max: float | None = None
    by: Literal["score", "strength"] = "score"  # chosen minus rejected score, or the data's own strength

    def problems(self, table_kind: str) -> list[str]:
        return _band(self)


@dataclass(frozen=True, kw_only=True)
class TieConfig(FilterConfig):
    """Pairs whose scores differ by at most `tolerance`."""

    kind: ClassVar[str] = "tie"
    tables: ClassVar[tuple[str, ...]] = ("pairs",)
    tolerance: float = 0.0

    def problems(self, table_kind: str) -> list[str]:
        return _at_least(self, tolerance=0)


@dataclass(frozen=True, kw_only=True)
class IdenticalConfig(FilterConfig):
    """Pairs whose two responses are the same text, white space aside."""

    kind: ClassVar[str] = "identical_responses"
    tables: ClassVar[tuple[str, ...]] = ("pairs",)
    ignore_case: bool = False


@dataclass(frozen=True, kw_only=True)
class DifficultyConfig(FilterConfig):
    """Prompts whose pass rate, the share of their scored samples with a score >= threshold, is out of [low, high]."""

    kind: ClassVar[str] = "difficulty"
    tables: ClassVar[tuple[str, ...]] = ("prompts", "samples")  # of prompts, the samples are the context's
    threshold: float = 1.0
    low: float = 0.0
    high: float = 1.0
    min_samples: int = 1  # scored; a prompt with fewer is dropped

    def problems(self, table_kind: str) -> list[str]:
        found = [f"{n}: {getattr(self, n)} is not in [0, 1]" for n in ("low", "high") if not 0 <= getattr(self, n) <= 1]
        return found + _order("low", self.low, self.high) + _at_least(self, min_samples=1)


@dataclass(frozen=True, kw_only=True)
class PromptCapConfig(FilterConfig):
    """Prompts beyond a number, or a share, of those of their source; all rows of a prompt go or stay together.

    Which ones is drawn by uid and seed, whatever the order of rows."""

    kind: ClassVar[str] = "prompt_cap"
    at_most: int | None = None
    share: float | None = None
    per_source: dict[str, int] = field(default_factory=dict)  # source to its own `at_most`
    seed: int | None = None  # None: the context's

    def problems(self, table_kind: str) -> list[str]:
        found = [f"per_source: {name!r} is {n}, not >= 0" for name, n in self.per_source.items() if n < 0]
        if self.share is not None and not 0 < self.share <= 1:
            found.append(f"share: {self.share} is not in (0, 1]")
        if self.at_most is None and self.share is None and not self.per_source:
            found.append("at_most: none of at_most, share and per_source is set, so nothing would be dropped")
        return found + _at_least(self, at_most=0)


@dataclass(frozen=True, kw_only=True)
class SamplesPerPromptConfig(FilterConfig):
    """Rows of a prompt beyond a number."""

    kind: ClassVar[str] = "samples_per_prompt"
    tables: ClassVar[tuple[str, ...]] = ANSWERED
    at_most: int
    keep: Literal["first", "best", "random"] = "first"
    seed: int | None = None  # of random; None: the context's

    def problems(self, table_kind: str) -> list[str]:
        return _at_least(self, at_most=1)


@dataclass(frozen=True, kw_only=True)
class FunctionConfig(FilterConfig):
    """A function of the user's own: a row as a dict, `metadata`, `parts` and `info` decoded -> None or a reason."""

    kind: ClassVar[str] = "fn"
    fn: str  # path/to/file.py:function or package.module:function
    options: dict[str, Any] = field(default_factory=dict)  # keyword arguments

    def problems(self, table_kind: str) -> list[str]:
        try:
            load_function(self.fn, "filter")
        except RegistryError as error:
            return [f"fn: {error}"]
        return []


KINDS: dict[str, type[FilterConfig]] = {kind.kind: kind for kind in FilterConfig.__subclasses__()}


def _keep(keep: str, table_kind: str) -> list[str]:
    return ["keep: best needs scores, which prompts do not have"] if keep == "best" and table_kind == "prompts" else []


def _at_least(config: FilterConfig, **limits: float) -> list[str]:
    held = {name: getattr(config, name) for name in limits}
    return [f"{n}: {held[n]} is below {low}" for n, low in limits.items() if held[n] is not None and held[n] < low]


def _band(config: LengthConfig | MarginConfig) -> list[str]:
    if config.min is None and config.max is None:
        return ["min: neither it nor max is set, so nothing would be dropped"]
    return _order("min", config.min, config.max)


def _order(name: str, low: float | None, high: float | None) -> list[str]:
    return [f"{name}: {low} is above {high}"] if low is not None and high is not None and low > high else []
