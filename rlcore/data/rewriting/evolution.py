"""Prompts evolved by a model, after Evol-Instruct (WizardLM, arXiv 2304.12244), as pure functions.

    requests = evolutions(prompts, config, "evolve", seed)     # instructions, one per evolution
    answers = ...                                              # the caller renders and generates the answers
    prompts, counts = evolved(requests, answers, config, render)

Responses are rewritten by `rlcore.data.rewriting.constitution`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import regex  # type: ignore[import-untyped, unused-ignore]

from rlcore.data.rewriting.constitution import ConstitutionConfig, check_number, named_twice
from rlcore.data.selection.best_of_n import prompt_rng
from rlcore.data.sources.render import RAW, raw_text
from rlcore.problems import Problem, bounded, check_settings
from rlcore.templates import AnswerConfig, parse, render, template_problems
from rlcore.types import Prompt

# metadata keys of an evolved prompt
PARENT, ROOT, OPERATION, GENERATION = "parent", "root", "operation", "generation"

RenderPrompt = Callable[[str], tuple[str, Sequence[int]]]  # text of a prompt -> (rendered text, its token ids)

MARK = "New task:"
DEPTH_FRAME = f"""Rewrite the task below so that it is somewhat harder for a capable assistant, yet still sensible, \
and clear to the person who reads it.

What to do: {{operation}}

Keep whatever the task comes with, such as tables, code, formulas or input. Add about ten to twenty words. Do not \
solve the task. Answer with "{MARK}" and after it the rewritten task, nothing else.

Task:
{{prompt}}
"""
BREADTH_FRAME = f"""Write one task of your own, inspired by the task below.

What to do: {{operation}}

It must be sensible, and clear to the person who reads it. Do not solve it. Answer with "{MARK}" and after it your \
task, nothing else.

Task:
{{prompt}}
"""


@dataclass
class OperationConfig:
    name: str = ""
    text: str = ""  # the instruction that replaces {operation} in the frame
    breadth: bool = False  # a new task in addition to the old one, not a harder one
    weight: float = bounded(1.0, gt=0)  # weight in the draw
    keeps_answer: bool = False  # the reference and rewards of the parent stay valid


def _operations() -> list[OperationConfig]:
    """The five in-depth operations of section 3.2, and in-breadth evolving."""
    texts = {
        "add_constraints": "add one further constraint or requirement that the answer has to meet.",
        "deepen": "if the task asks about something, ask about it in more depth and more breadth.",
        "concretise": "replace general notions by more specific ones.",
        "reasoning": "where a few simple steps of thought do, change the task so that it expressly needs several.",
        "complicate_input": "give the task an input to work on, such as a table, code, a formula or a data record.",
    }
    rare = "stay in the same field and at about the same length and difficulty, but ask for something much rarer."
    depth = [OperationConfig(name, text) for name, text in texts.items()]
    return [*depth, OperationConfig("breadth", rare, breadth=True)]


@dataclass
class EliminationConfig:
    """Elimination criteria of evolutions (section 3.2, Elimination Evolving)."""

    # maximal similarity to the parent, as share of common word pairs; 1: drops only equal texts
    max_similarity: float = bounded(1.0, gt=0, le=1)
    min_words: int = 1
    max_words: int | None = None
    # words of the instruction that an evolved prompt must not contain, unless its parent does
    copied: list[str] = field(
        default_factory=lambda: [
            "new task", "rewritten task", "given task", "task below", "first task", "original task",
        ]
    )  # fmt: skip


@dataclass
class RewritingConfig:
    """Config of prompt evolution."""

    operations: list[OperationConfig] = field(default_factory=_operations)
    per_prompt: int = bounded(1, ge=1)  # evolutions of each prompt; operations repeat only after all were used
    depth_frame: str = DEPTH_FRAME
    breadth_frame: str = BREADTH_FRAME
    answer: AnswerConfig = field(default_factory=lambda: AnswerConfig(after=MARK))
    elimination: EliminationConfig = field(default_factory=EliminationConfig)
    put_back: bool = False  # keep a prompt without any successful evolution unchanged, as in WizardLM's pool
    constitution: ConstitutionConfig = field(default_factory=ConstitutionConfig)

    def problems(self, key: str) -> Iterator[Problem]:
        if not self.operations:
            yield Problem(f"{key}.operations", [], "there is none", "give at least one")
        for i, operation in enumerate(self.operations):
            if not operation.name or not operation.text:
                yield Problem(f"{key}.operations.{i}", operation.name, "incomplete", "it needs a name and a text")
        yield from named_twice(f"{key}.operations", [operation.name for operation in self.operations])
        for name in ("depth_frame", "breadth_frame"):
            seen = ("operation", "prompt")
            yield from template_problems(f"{key}.{name}", getattr(self, name), seen, seen)


@dataclass(frozen=True, slots=True)
class Evolution:
    """An instruction for the model, and the ids of the resulting prompt."""

    uid: str  # uid of the new prompt: "<parent's uid>~<stage>.<k>"
    text: str
    parent: Prompt
    operation: OperationConfig


REASONS = ("unparsed", "too_short", "too_long", "copied", "no_gain", "duplicate")


def evolutions(prompts: Sequence[Prompt], config: RewritingConfig, stage: str, seed: int) -> list[Evolution]:
    """`per_prompt` instructions for each prompt; operations are drawn by weight, independently for each prompt.

    Raises:
        ValueError: invalid settings, or duplicate uids.
    """
    check_settings(config, "rewriting")
    _check_uids(prompts)
    made = []
    for prompt in prompts:
        for k, operation in enumerate(_draw(prompt, config, stage, seed)):
            frame = config.breadth_frame if operation.breadth else config.depth_frame
            text = render(frame, operation=operation.text, prompt=raw_text(prompt))
            made.append(Evolution(f"{prompt.uid}~{stage}.{k}", text, prompt, operation))
    return made


def evolved(
    requests: Sequence[Evolution], answers: Sequence[str], config: RewritingConfig, render_prompt: RenderPrompt
) -> tuple[list[Prompt], dict[str, int]]:
    """The evolved prompts that pass the elimination, in the order of the requests, and counts.

    The metadata of a new prompt has its lineage: `parent`, `root` (uids), `operation`, `generation` (1 for the first)
    and `raw_prompt`. Reference, rewards and other metadata are copied from the parent only if the operation keeps
    answers; otherwise there is no reference.

    Counts: `requests`, `evolved`, `dropped_<reason>` for each of REASONS (requests = evolved + all dropped), and
    `put_back`.

    Raises:
        ValueError: there is not one answer per request.
    """
    check_number(requests, answers)
    seen = {_key(raw_text(request.parent)) for request in requests}
    made: list[Prompt] = []
    alive: set[str] = set()
    dropped: Counter[str] = Counter()
    for request, answer in zip(requests, answers, strict=True):
        text = parse(answer, config.answer)
        reason = "unparsed" if text is None else _failure(text, raw_text(request.parent), config.elimination)
        if not reason and text is not None and _key(text) in seen:
            reason = "duplicate"
        if reason or text is None:
            dropped[reason] += 1
            continue
        seen.add(_key(text))
        alive.add(request.parent.uid)
        made.append(_child(request, text, render_prompt))
    back = {r.parent.uid: r.parent for r in requests if r.parent.uid not in alive} if config.put_back else {}
    counts = {"requests": len(requests), "evolved": len(made)}
    counts |= {f"dropped_{reason}": dropped[reason] for reason in REASONS}
    return made + list(back.values()), counts | {"put_back": len(back)}


def _draw(prompt: Prompt, config: RewritingConfig, stage: str, seed: int) -> list[OperationConfig]:
    rng = prompt_rng(seed, "rewriting", stage, prompt.uid)
    weights = [operation.weight for operation in config.operations]
    shares = [weight / sum(weights) for weight in weights]
    drawn: list[OperationConfig] = []
    while len(drawn) < config.per_prompt:  # all of them once, then again
        num = min(config.per_prompt - len(drawn), len(shares))
        drawn += [config.operations[i] for i in rng.choice(len(shares), size=num, replace=False, p=shares)]
    return drawn


def _failure(text: str, parent: str, config: EliminationConfig) -> str:
    words = _words(text)
    if len(words) < max(config.min_words, 1):
        return "too_short"
    if config.max_words is not None and len(words) > config.max_words:
        return "too_long"
    if any(p.search(text) and not p.search(parent) for p in map(_words_pattern, config.copied)):
        return "copied"
    return "no_gain" if _similarity(words, _words(parent)) >= config.max_similarity else ""


def _child(request: Evolution, text: str, render_prompt: RenderPrompt) -> Prompt:
    parent, operation = request.parent, request.operation
    rendered, token_ids = render_prompt(text)
    lineage = {
        RAW: text,
        PARENT: parent.uid,
        ROOT: parent.metadata.get(ROOT, parent.uid),
        OPERATION: operation.name,
        GENERATION: int(parent.metadata.get(GENERATION, 0)) + 1,
    }
    return Prompt(
        uid=request.uid,
        token_ids=tuple(token_ids),
        text=rendered,
        reference=parent.reference if operation.keeps_answer else None,
        rewards=parent.rewards if operation.keeps_answer else (),
        metadata={**parent.metadata, **lineage} if operation.keeps_answer else lineage,
        source=parent.source,
    )


def _words(text: str) -> list[str]:
    """Lower-case words and single punctuation marks."""
    return list(regex.findall(r"\w+|[^\w\s]", text.lower()))


def _words_pattern(phrase: str) -> regex.Pattern[str]:
    return regex.compile(rf"(?<!\w){regex.escape(phrase)}(?!\w)", regex.IGNORECASE)


def _similarity(words: list[str], others: list[str]) -> float:
    """Jaccard similarity of the multisets of word pairs; 1 if the words are the same, up to rearrangements with equal
    pairs.
    """
    mine, theirs = (Counter(zip(["", *w], [*w, ""], strict=True)) for w in (words, others))
    return (mine & theirs).total() / (mine | theirs).total()


def _key(text: str) -> str:
    return " ".join(text.split()).lower()


def _check_uids(prompts: Sequence[Prompt]) -> None:
    twice = [uid for uid, count in Counter(p.uid for p in prompts).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} uids occur twice, as {twice[0]!r}: their rewritings would share a uid")
