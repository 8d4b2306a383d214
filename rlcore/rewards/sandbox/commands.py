"""Programs in other languages: a table of commands to compile (optional) and run."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlcore.rewards.sandbox.outcome import feed
from rlcore.rewards.sandbox.records import Ending, Job, Limits, Outcome, SandboxError
from rlcore.rewards.sandbox.zygote import Zygote

READABLE = ("/usr", "/bin", "/lib", "/lib64", "/etc/alternatives", "/etc/ld.so.cache", "/proc/self", "/proc/cpuinfo")
JAVA = tuple(sorted(map(str, Path("/etc").glob("java-*-openjdk"))))  # Debian's java keeps its settings there
COMPILE_TIME_S, COMPILE_MEMORY_MB = 20.0, 4096
RUNTIME_MB = 1024  # extra limit for runtimes that reserve memory


@dataclass(frozen=True, slots=True)
class Command:
    """Commands of a language. `{source}`, `{program}` and `{folder}` are substituted; the first word is looked up on
    PATH.
    """

    file: str  # name of the source file
    run: Sequence[str]
    compile: Sequence[str] = ()
    reserves: bool = False  # the runtime reserves address space; the memory limit counts only written pages


Table = Mapping[str, Command]

TABLE: Table = {
    "c": Command("main.c", ["{program}"], ["gcc", "-O2", "-std=c11", "-o", "{program}", "{source}", "-lm"]),
    "cpp": Command("main.cpp", ["{program}"], ["g++", "-O2", "-std=c++17", "-o", "{program}", "{source}"]),
    "javascript": Command("main.js", ["node", "{source}"], reserves=True),
    "perl": Command("main.pl", ["perl", "{source}"]),
    "ruby": Command("main.rb", ["ruby", "{source}"], reserves=True),
    "go": Command("main.go", ["{program}"], ["go", "build", "-o", "{program}", "{source}"], reserves=True),
    "rust": Command("main.rs", ["{program}"], ["rustc", "-O", "-o", "{program}", "{source}"]),
    "java": Command(
        "Main.java",
        ["java", "-Xss64m", "-XX:+UseSerialGC", "-cp", "{folder}", "Main"],
        ["javac", "-d", "{folder}", "{source}"],
        reserves=True,
    ),
}
ALIASES = {"c++": "cpp", "cc": "cpp", "js": "javascript", "node": "javascript", "golang": "go", "rs": "rust"}
PYTHON = ("python", "python3", "py", "py3", "pypy", "pypy3")


def language(name: str) -> str:
    """The name of a language in the table."""
    name = name.strip().lower()
    return "python" if name in PYTHON else ALIASES.get(name, name)


def run(zygote: Zygote, job: Job, deadline: float, table: Table) -> list[Outcome]:
    """Compiles the program once and runs it on every input.

    Raises:
        SandboxError: the language is not in the table, its command is not installed, or the job has no inputs.
    """
    if job.language not in table:
        raise SandboxError(f"no command for the language {job.language!r}; there are: python, {', '.join(table)}")
    if not job.inputs:
        raise SandboxError(f"function and assert tests are for Python programs, not for {job.language}")
    command = table[job.language]
    folder = Path(zygote.scratch)
    fill = {"{source}": str(folder / command.file), "{program}": str(folder / "program"), "{folder}": str(folder)}
    try:
        (folder / command.file).write_text(job.source, errors="surrogatepass")
        os.chmod(folder / command.file, 0o644)
        if command.compile:
            limits = Limits(COMPILE_TIME_S, COMPILE_MEMORY_MB, 256, job.limits.deadline_s)
            built = feed(zygote, "command", _spec(command.compile, fill, True, command), "", limits, deadline)
            if built.ending is not Ending.done:
                why = f"it does not compile: {built.error or built.output}"
                return [replace(built, error=why)] * job.num_tests
        spec = _spec(command.run, fill, False, command)
        own = replace(job.limits, memory_mb=job.limits.memory_mb + RUNTIME_MB * command.reserves)
        outcomes = []
        for text in job.inputs:
            if time.monotonic() >= deadline:
                outcomes.append(Outcome(Ending.skipped, error="the deadline came first"))
            else:
                outcomes.append(feed(zygote, "command", spec, text, own, deadline))
        return outcomes
    finally:
        _empty(folder)


def _spec(words: Sequence[str], fill: Mapping[str, str], writes: bool, command: Command) -> dict[str, Any]:
    argv = list(words)
    for key, value in fill.items():
        argv = [word.replace(key, value) for word in argv]
    found = argv[0] if os.path.isabs(argv[0]) else shutil.which(argv[0])
    if found is None:
        raise SandboxError(f"{argv[0]} is not installed, which programs in this language need")
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "OPENSSL_CONF": "/dev/null"}
    env |= {"HOME": fill["{folder}"], "TMPDIR": fill["{folder}"]}
    own = [] if found.startswith(("/usr/", "/bin/")) else [str(Path(found).resolve().parent.parent)]
    reserves = command.reserves
    argv[0] = found
    return {"argv": argv, "env": env, "writes": writes, "reserves": reserves, "readable": [*READABLE, *JAVA, *own]}


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
