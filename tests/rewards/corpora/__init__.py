"""Answers with verdicts, written by hand from the conventions of GSM8K, MATH, AIME, OlympiadBench and SciBench."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Pair:
    line: int
    kind: str
    equal: bool
    reference: str
    answer: str  # a final answer, or a whole completion
    problem: str = ""


def read(name: str) -> list[Pair]:
    """The pairs of a file: `[kind]` lines, then `+ reference || answer` for equal ones, `-` for others, `+%` for those
    that are equal where the problem asks for a percentage."""
    found, kind = [], ""
    for number, line in enumerate((FOLDER / name).read_text().split("\n"), 1):
        if line.startswith("["):
            kind = line.strip("[]")
        elif (sign := line.partition(" ")[0]) in ("+", "-", "+%"):
            reference, _, answer = line[len(sign) + 1 :].partition(" || ")
            problem = "What percentage is it?" if sign == "+%" else ""
            found.append(Pair(number, kind, line[0] == "+", reference, answer.replace("⏎", "\n"), problem))
    return found


def known_failures(check: str) -> set[tuple[str, str]]:
    """(reference, response) of the wrong verdicts that are known, of one check of `test_math_corpora`."""
    lines = (FOLDER / "math_known_failures.txt").read_text().split("\n")
    rows = [line.split(" || ") for line in lines if " || " in line]
    return {(row[1].replace("⏎", "\n"), row[2].replace("⏎", "\n")) for row in rows if row[0] == check}


def pairs() -> list[Pair]:
    return read("math_pairs.txt")


def completions() -> list[Pair]:
    return read("math_completions.txt")


def hostile() -> list[str]:
    """Answers that try to hang, crash or break into a grader, and some too long to be written out."""
    lines = (FOLDER / "math_hostile.txt").read_text().split("\n")
    long = [
        "9" * 100_000, "(" * 3000 + "1" + ")" * 3000, r"\frac{1}{" * 200 + "2" + "}" * 200, "9" * 900 + "!",
        r"\sqrt{" * 35 + "x" + "}" * 35, "-" * 900 + "x", "5" + "!" * 500, "x^" * 300 + "2", "|" * 900, r"\pm" * 300,
        "1," * 450, "{" * 900, r"\{" * 400, "sin" * 300 + "x", "2^" * 100 + "2", r"\sin " * 200 + "x", "(x+1)" * 190,
        r"\text{" * 100, r"\text{a}" * 140, "a_" * 400, "1:" * 400 + "1", "x=" * 400 + "y", r"\begin{pmatrix}" * 60,
        r"\cup" * 200, "0." + "3" * 900, r"0.\overline{" + "3" * 900 + "}", "1/" * 400 + "3", "5 " * 400,
        r"\frac" * 200,
    ]  # fmt: skip
    return [line for line in lines if line and not line.startswith("#")] + long
