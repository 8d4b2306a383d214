"""`rlcore rewards`: lists rewards, and scores stored completions."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any

from rlcore.data.sources.problem import BrokenRow
from rlcore.data.sources.rows import references_of
from rlcore.registry import load_file, shadowing
from rlcore.rewards import registry
from rlcore.rewards.composition import Item, Term
from rlcore.rewards.pool import VerifierPool
from rlcore.rewards.registry import RewardError
from rlcore.types import REFERENCES, RewardInput, RewardResult, Status

BATCH = 32  # rows per submission
SHOWN = 20  # maximum of bad rows and failures in the output
REPORT_S = 10.0  # between lines of progress without a terminal
OWN_COLUMNS = ("response", "reference", "prompt", "finish_reason")


def main(arguments: Sequence[str]) -> int:
    """Runs `rlcore rewards ...`; returns the exit code.

    Raises:
        RewardError: an unknown reward, a file that cannot be loaded, invalid rows.
    """
    options = _parser().parse_args(arguments)
    if options.command == "list":
        for file in options.files:
            _warn(file)
            load_file(file, "reward", RewardError)
        print(table())
        return 0
    score(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rlcore rewards", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("list", help="name, origin and first line of every reward")
    shown.add_argument("files", nargs="*", metavar="FILE.py", help="your files that register rewards")
    judged = commands.add_parser("score", help="score the completions of a jsonl file")
    judged.add_argument("file", type=Path, help="rows with `response` and `reference`, or `response` and `tests`")
    judged.add_argument("--reward", required=True, help="a name of `rlcore rewards list`, or path/to/file.py:function")
    judged.add_argument("--out", type=Path, required=True, help="scores, statuses and seconds, in order")
    judged.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="of the reward")
    judged.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1))
    judged.add_argument("--timeout", type=float, default=5.0, metavar="S", help="seconds for one row (5)")
    judged.add_argument("--memory", type=int, default=2048, metavar="MB", help="address space of a process (2048)")
    return parser


def _warn(file: str) -> None:
    if file.endswith(".py") and (text := shadowing(file)):
        print(f"warning: {file}: {text}; rename or move them", file=sys.stderr)


def table() -> str:
    """One line per registered reward: name, origin, description."""
    rows = []
    for name in registry.names():
        fn = inspect.unwrap(registry.get(name))
        module = getattr(fn, "__module__", "") or ""
        code = getattr(fn, "__code__", None)
        origin = module
        if code is not None and not module.startswith("rlcore."):
            origin = f"{_short(code.co_filename)}:{code.co_firstlineno}"
        summary = (inspect.getdoc(fn) or "").strip().partition("\n")[0] or "(no docstring)"
        rows.append((name, origin, summary))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {origin:<{widths[1]}}  {summary}" for name, origin, summary in rows)


def _short(path: str) -> str:
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path


def score(options: argparse.Namespace) -> None:
    """Scores every row of the file in a `VerifierPool`, like training, and writes the results to a file."""
    if options.out.exists() and options.out.resolve() == options.file.resolve():
        raise RewardError(f"--out {options.out} is the file of the completions itself")
    if options.out.is_dir():
        raise RewardError(f"--out {options.out} is a folder: name a file in it")
    term = _term(options.reward, options.option)
    total = _checked(options.file)
    counts: Counter[str] = Counter()
    failures: list[str] = []
    points, started = 0.0, time.monotonic()
    partial = options.out.with_name(options.out.name + ".partial")
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
    except OSError as error:
        raise RewardError(f"--out {options.out} cannot be written: {error}") from error
    progress = _Progress(total)
    try:
        pool = VerifierPool(options.processes, options.timeout, options.memory)
    except ValueError as error:
        raise RewardError(str(error)) from error
    with pool, partial.open("w") as out:
        for line, result, seconds in _results(pool, options.file, (term,)):
            _write(out, line, result, seconds)
            counts[result.status.value] += 1
            points += result.score if result.ok else 0.0
            if not result.ok and len(failures) < 3:
                failures.append(f"  line {line}: {result.status.value}: {str(result.info.get('error'))[:300]}")
            progress(sum(counts.values()), counts)
    partial.replace(options.out)
    progress.close()
    elapsed = time.monotonic() - started
    print(f"{options.out}: {total} rows in {elapsed:.1f} s, {total / max(elapsed, 1e-9):.0f} rows/s")
    print("  " + ", ".join(f"{counts[s.value]} {s.value}" for s in Status if counts[s.value]))
    if counts["ok"]:
        print(f"  mean score of rows with status ok: {points / counts['ok']:.4f}")
    if failures:
        print("failures, the first of them:\n" + "\n".join(failures))


def _term(reward: str, options: Sequence[str]) -> Term:
    """Checks rewards and files before any process starts."""
    given: dict[str, Any] = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator or not key.isidentifier():
            raise RewardError(f"--option {option!r} is not KEY=VALUE")
        try:
            given[key] = json.loads(value)
        except json.JSONDecodeError:
            given[key] = value  # a bare word
    if ":" in reward:
        _warn(reward.rpartition(":")[0])
        registry.load_fn(reward)
        return Term(reward.rpartition(":")[2], reward, options=given)
    registry.get(reward)
    return Term(reward, options=given)


def _checked(file: Path) -> int:
    """The number of rows.

    Raises:
        RewardError: no such file, no rows, or invalid rows, each with its line number.
    """
    if not file.is_file():
        raise RewardError(f"{file} does not exist")
    bad, total = [], 0
    for line, text in _lines(file):
        try:
            _input(text)
            total += 1
        except ValueError as error:
            bad.append(f"  line {line}: {error}")
    if bad:
        more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise RewardError(f"{file} has {len(bad)} bad rows; nothing was scored\n" + "\n".join(bad[:SHOWN]) + more)
    if not total:
        raise RewardError(f"{file} has no rows")
    return total


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Non-empty lines with their numbers, from 1."""
    with file.open("rb") as lines:
        for number, text in enumerate(lines, 1):
            if text.strip():
                yield number, text


def _input(text: bytes) -> RewardInput:
    """Parses a row. Raises ValueError with the error in the row."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {str(error)[:120]}") from error
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__}, not an object")
    if not isinstance(row.get("response"), str):
        raise ValueError("`response` is missing" if "response" not in row else "`response` is no string")
    try:
        accepted = references_of(row.get("reference"), "`reference`")
    except BrokenRow as broken:
        raise ValueError(str(broken)) from broken
    if not isinstance(row.get("tests", {}), Mapping):
        raise ValueError("`tests` is not an object")
    prompt, finish = row.get("prompt", ""), row.get("finish_reason", "stop")
    others = {key: value for key, value in row.items() if key not in OWN_COLUMNS}
    if len(accepted) > 1:
        others[REFERENCES] = list(accepted)
    return RewardInput(
        prompt=prompt if isinstance(prompt, str) else json.dumps(prompt),
        response=row["response"],
        reference=accepted[0] if accepted else None,
        finish_reason=finish if isinstance(finish, str) else "stop",
        metadata=others,
    )


def _results(
    pool: VerifierPool, file: Path, terms: tuple[Term, ...]
) -> Iterator[tuple[int, RewardResult, float]]:
    """Line number, result and seconds of every row, in order; keeps few rows in memory."""
    waiting: deque[tuple[list[int], list[float], Future[list[RewardResult]]]] = deque()
    batches = _batches(file)
    while True:
        while len(waiting) < 2 * pool.num_processes and (batch := next(batches, None)) is not None:
            seconds: list[float] = []
            items = [Item(terms, sample) for _, sample in batch]
            waiting.append(([line for line, _ in batch], seconds, pool.submit(items, seconds)))
        if not waiting:
            return
        lines, seconds, future = waiting.popleft()
        yield from zip(lines, future.result(), seconds, strict=True)


def _batches(file: Path) -> Iterator[list[tuple[int, RewardInput]]]:
    batch: list[tuple[int, RewardInput]] = []
    for line, text in _lines(file):
        batch.append((line, _input(text)))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _write(out: IO[str], line: int, result: RewardResult, seconds: float) -> None:
    row: dict[str, Any] = {"score": result.score, "status": result.status.value, "seconds": round(seconds, 6)}
    row |= {"line": line, "parts": dict(result.parts), "info": dict(result.info)}
    out.write(json.dumps(row) + "\n")


class _Progress:
    """Progress on standard error: a live line on a terminal, otherwise a line every ten seconds."""

    def __init__(self, total: int) -> None:
        self.total, self.live, self.shown = total, sys.stderr.isatty(), time.monotonic()

    def __call__(self, done: int, counts: Mapping[str, int]) -> None:
        now = time.monotonic()
        if now - self.shown < (0.1 if self.live else REPORT_S) and (done < self.total or not self.live):
            return
        self.shown = now
        failed = done - counts["ok"]
        text = f"{done}/{self.total} rows, {failed} failed"
        sys.stderr.write(f"\r{text}\x1b[K" if self.live else text + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        if self.live:
            sys.stderr.write("\n")
