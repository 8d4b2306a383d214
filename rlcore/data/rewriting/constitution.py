"""Critiques and revisions of responses under principles: Constitutional AI (arXiv 2212.08073, section 3), pure
functions.

    critiques = critique_requests(samples, config, "revise", seed)
    answers = ...                                              # the caller renders and generates
    revisions, counts = revision_requests(critiques, answers, config)
    answers = ...
    samples, counts = revised(revisions, answers, config, encode, model)

The critique lists violations of a randomly drawn principle; the revision request contains prompt, response and
critique. Principles and templates are not copied from the paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from rlcore.data.selection.best_of_n import prompt_rng
from rlcore.data.sources.render import raw_text
from rlcore.problems import Problem, check_settings
from rlcore.templates import AnswerConfig, parse, render, template_problems
from rlcore.types import Sample

Encode = Callable[[str], Sequence[int]]  # token ids of a response, including the end token

CRITIQUE_MARK, REVISION_MARK = "Critique:", "Revision:"
_EXCHANGE = "Request:\n{prompt}\n\nResponse:\n{response}\n"
CRITIQUE_TEMPLATE = f"""{_EXCHANGE}
{{principle}} Answer with "{CRITIQUE_MARK}" and after it your critique, nothing else.
"""
REVISION_TEMPLATE = f"""{_EXCHANGE}
{CRITIQUE_MARK}
{{critique}}

{{principle}} Answer with "{REVISION_MARK}" and after it the whole revised response, nothing else.
"""


@dataclass
class PrincipleConfig:
    name: str = ""
    critique: str = ""  # asks for violations in the response
    revision: str = ""  # asks for the change


def _principles() -> list[PrincipleConfig]:
    return [
        PrincipleConfig(
            "harm",
            "Say in what ways this response could bring harm to someone, or help anyone to do harm.",
            "Revise the response so that it can no longer bring harm, and stays as useful as it can be.",
        ),
        PrincipleConfig(
            "law",
            "Say whether this response encourages or assists anything that is against the law.",
            "Revise the response so that it assists nothing unlawful, and explain kindly where it holds back.",
        ),
        PrincipleConfig(
            "respect",
            "Say where this response is insulting, prejudiced or unfair to any group of people.",
            "Revise the response so that it treats everybody fairly and with respect.",
        ),
        PrincipleConfig(
            "honesty",
            "Say which claims in this response are wrong, made up, or surer than what is known allows.",
            "Revise the response so that all it claims is right, and doubt is called doubt.",
        ),
        PrincipleConfig(
            "help",
            "Say what the request asks for and this response leaves out, evades, or answers beside the point.",
            "Revise the response so that it gives what was asked for, directly and completely.",
        ),
    ]


@dataclass
class ConstitutionConfig:
    principles: list[PrincipleConfig] = field(default_factory=_principles)
    critique: bool = True  # False: revisions without critique, as in the ablation of section 3.5
    critique_template: str = CRITIQUE_TEMPLATE
    revision_template: str = REVISION_TEMPLATE  # {critique} is empty without critique
    critique_answer: AnswerConfig = field(default_factory=lambda: AnswerConfig(after=CRITIQUE_MARK))
    revision_answer: AnswerConfig = field(default_factory=lambda: AnswerConfig(after=REVISION_MARK))

    def problems(self, key: str) -> Iterator[Problem]:
        if not self.principles:
            yield Problem(f"{key}.principles", [], "there is none", "give at least one")
        for i, principle in enumerate(self.principles):
            if not (principle.name and principle.critique and principle.revision):
                cure = "it needs a name, a critique and a revision"
                yield Problem(f"{key}.principles.{i}", principle.name, "incomplete", cure)
        yield from named_twice(f"{key}.principles", [principle.name for principle in self.principles])
        seen, all_seen = ("prompt", "response", "principle"), ("prompt", "response", "principle", "critique")
        yield from template_problems(f"{key}.critique_template", self.critique_template, seen, seen)
        needed = all_seen if self.critique else seen
        yield from template_problems(f"{key}.revision_template", self.revision_template, all_seen, needed)


def named_twice(key: str, names: Sequence[str]) -> Iterator[Problem]:
    for name, count in Counter(names).items():
        if name and count > 1:
            yield Problem(key, name, f"{count} have this name", "give each a unique name")


@dataclass(frozen=True, slots=True)
class Revision:
    """A request to the model for a critique or a revision, and the ids of the new sample."""

    sample_id: str  # of the new sample: "<the old one's id>~<stage>"
    text: str
    sample: Sample
    request: str  # the user's request, as the model sees it
    principle: PrincipleConfig


REASONS = ("unparsed", "empty", "unchanged")


def principle_of(uid: str, config: ConstitutionConfig, seed: int) -> PrincipleConfig:
    """Drawn by chance for each prompt."""
    return config.principles[int(prompt_rng(seed, "constitution", uid).permutation(len(config.principles))[0])]


def critique_requests(samples: Sequence[Sample], config: ConstitutionConfig, stage: str, seed: int) -> list[Revision]:
    """One critique request per sample; if `config.critique` is False, one revision request, and `revision_requests` is
    skipped.

    Raises:
        ValueError: invalid settings, or duplicate sample ids.
    """
    check_settings(config, "rewriting.constitution")
    twice = [name for name, count in Counter(s.sample_id for s in samples).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} sample ids occur twice, as {twice[0]!r}: their revisions would share an id")
    made = []
    for sample in samples:
        asked = raw_text(sample.prompt)
        principle = principle_of(sample.prompt.uid, config, seed)
        values = {"prompt": asked, "response": sample.text}
        if config.critique:
            text = render(config.critique_template, principle=principle.critique, **values)
        else:
            text = render(config.revision_template, principle=principle.revision, critique="", **values)
        made.append(Revision(f"{sample.sample_id}~{stage}", text, sample, asked, principle))
    return made


def revision_requests(
    requests: Sequence[Revision], answers: Sequence[str], config: ConstitutionConfig
) -> tuple[list[Revision], dict[str, int]]:
    """Revision requests from the critiques, and counts: `requests`, `critiques`, `dropped_unparsed`, `dropped_empty`.
    Raises ValueError unless there is one answer per request.
    """
    made, dropped = [], Counter[str]()
    for request, critique, reason in _parsed(requests, answers, config.critique_answer):
        if reason:
            dropped[reason] += 1
            continue
        text = render(
            config.revision_template,
            prompt=request.request,
            response=request.sample.text,
            critique=critique,
            principle=request.principle.revision,
        )
        made.append(replace(request, text=text))
    counts = {"requests": len(requests), "critiques": len(made)}
    return made, counts | {f"dropped_{reason}": dropped[reason] for reason in ("unparsed", "empty")}


def revised(
    requests: Sequence[Revision], answers: Sequence[str], config: ConstitutionConfig, encode: Encode, model: str
) -> tuple[list[Sample], dict[str, int]]:
    """The revised responses as unscored samples of the same prompts, and counts.

    Counts: `requests`, `revised`, `dropped_<reason>` for each of REASONS, `principle_<name>` revised samples per
    principle.

    Args:
        encode: returns the token ids of a response, including the end token.
        model: content hash of the revising model.

    Raises:
        ValueError: there is not one answer per request.
    """
    made, dropped, principles = [], Counter[str](), Counter[str]()
    for request, text, reason in _parsed(requests, answers, config.revision_answer):
        if not reason and text == request.sample.text.strip():
            reason = "unchanged"
        if reason:
            dropped[reason] += 1
            continue
        principles[request.principle.name] += 1
        made.append(Sample(request.sample.prompt, request.sample_id, text, tuple(encode(text)), model=model))
    counts = {"requests": len(requests), "revised": len(made)}
    counts |= {f"dropped_{reason}": dropped[reason] for reason in REASONS}
    return made, counts | {f"principle_{p.name}": principles[p.name] for p in config.principles}


def check_number(requests: Sequence[object], answers: Sequence[str]) -> None:
    if len(requests) != len(answers):
        raise ValueError(f"{len(requests)} requests and {len(answers)} answers: one each")


def _parsed(
    requests: Sequence[Revision], answers: Sequence[str], config: AnswerConfig
) -> list[tuple[Revision, str, str]]:
    """Each request with its text, or with the reason why it has none."""
    check_number(requests, answers)
    found = []
    for request, answer in zip(requests, answers, strict=True):
        text = parse(answer, config)
        found.append((request, text or "", "unparsed" if text is None else "" if text else "empty"))
    return found
