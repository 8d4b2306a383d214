"""Runs hostile programs where an escape would reach nothing: as a user other than root, in process, mount and network
namespaces of their own, under limits and a time-out.

    confined(task, timeout_s)   from a test: starts this file out there with `task` (JSON) and returns its answer
    python code_confined.py     in there: scores programs and says what became of the canaries

`task`: {"tier", "programs": [[name, kind, source]], "rounds"} -> {"results": [[name, score, status, seconds, failed]],
"canary": bool, "processes": [...], "descriptors": [before, after], "threads", "scratch", "files", "sandbox"}.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
UID = 54_321
SECRET = "RLCORE_TEST_SECRET"
TIME_LIMIT_S, DEADLINE_S = 1.0, 6.0


def confined(task: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Raises RuntimeError with what it printed when it fails, and `Unconfined` when this machine has no namespaces."""
    with tempfile.TemporaryDirectory(prefix="rlcore-confined-") as folder:
        os.chmod(folder, 0o777)
        limits = ["prlimit", "--nproc=400", f"--as={16 << 30}", "--cpu=900", f"--fsize={256 << 20}"]
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": folder, SECRET: secrets.token_hex(8)}
        run = subprocess.run(
            [*_outer(folder), *limits, "timeout", "-s", "KILL", str(timeout_s), sys.executable, "-P", __file__],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=timeout_s + 30,
            env=env,
        )
        if run.returncode:
            raise RuntimeError(f"exit code {run.returncode}: {run.stderr[-3000:]}")
        return dict(json.loads(run.stdout.splitlines()[-1]))


class Unconfined(Exception):
    """No namespaces here: nothing hostile is run."""


def _outer(folder: str) -> list[str]:
    spaces = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--net", "--ipc"]
    if os.getuid():
        words = [*spaces, "--user", "--map-current-user", "--"]
    else:
        words = [*spaces, "--", "sh", "-c", _reachable(folder) + 'exec "$@"', "sh"]
        words += ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    tried = subprocess.run([*words, "true"], capture_output=True, text=True)
    if tried.returncode:
        raise Unconfined(tried.stderr.strip()[-300:])
    return words


def _reachable(folder: str) -> str:
    """Shell that brings an interpreter in a closed home into reach, and the rest of that home out of it."""
    base, aside = Path(os.path.realpath(sys.executable)).parent.parent, f"{folder}/base"
    closed = [p for p in reversed(base.parents) if not p.stat().st_mode & stat.S_IXOTH]
    if not closed:
        return ""
    steps = [f"mkdir {aside}", f"mount --bind {base} {aside}", f"mount -t tmpfs -o mode=755 tmpfs {closed[0]}"]
    steps += [f"mkdir -p {base}", f"mount --bind {aside} {base}", f"umount {aside}", f"rmdir {aside}"]
    return f"{' && '.join(steps)} || exit 9; "


def main() -> None:
    task = json.loads(sys.stdin.read())
    sys.path.insert(0, str(ROOT))
    from rlcore.rewards import code
    from rlcore.rewards.sandbox import close_all

    assert os.getuid() != 0, "hostile programs do not run as root"
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # subreaper: nothing here is init, which would reap what lost its parent
    folder = Path(tempfile.mkdtemp())
    canary, secret = folder / "canary", os.environ[SECRET]
    canary.write_text(secret)
    canary.chmod(0o666)
    identity = _identity(canary)
    listener = socket.socket()
    _loopback_up()
    listener.bind(("127.0.0.1", 0))
    listener.listen(50)
    facts = {"@CANARY@": str(canary), "@FOLDER@": str(folder), "@PORT@": str(listener.getsockname()[1])}
    facts["@PID@"] = str(os.getpid())
    options = {"sandbox": {"tier": task["tier"]}, "time_limit_s": TIME_LIMIT_S, "deadline_s": DEADLINE_S}
    code.score("print(1)", {"type": "stdin", "inputs": [""], "outputs": ["1"]}, **options)
    code.score("def f(x): return 1", tests_of("check", secret)[0], **options)
    before, memory, results, where = len(os.listdir("/proc/self/fd")), _memory(), [], ""
    for _ in range(task.get("rounds", 1)):
        for name, kind, source in task["programs"]:
            for mark, fact in facts.items():
                source = source.replace(mark, fact)
            for tests in tests_of(kind, secret):
                began = time.monotonic()
                result = code.score(f"```python\n{source}\n```", tests, **options)
                seconds = time.monotonic() - began
                results.append([name, result.score, result.status.value, seconds, result.info.get("failed", "")])
                where = result.info.get("sandbox", where)
    after, grown = len(os.listdir("/proc/self/fd")), _memory() - memory
    listener.settimeout(0)
    untouched = canary.read_text() == secret and _identity(canary) == identity
    escaped = (Path("/tmp/rlcore-escaped"), Path("/dev/shm/rlcore-escaped"))
    files = [str(p) for p in (*folder.iterdir(), *escaped) if p.exists()]
    try:
        listener.accept()
        connected = True
    except BlockingIOError:
        connected = False
    close_all()
    answer = {
        "results": results,
        "canary": untouched,
        "connected": connected,
        "processes": _others(),
        "descriptors": [before, after],
        "memory_mb": grown / (1 << 20),
        "threads": threading.active_count(),
        "scratch": [p.name for p in Path(tempfile.gettempdir()).glob("rlcore-sandbox-*")],
        "files": [f for f in files if f != str(canary)],
        "sandbox": where,
    }
    shutil.rmtree(folder)
    print(json.dumps(answer))


def _identity(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mode, found.st_mtime_ns, found.st_ino


def _loopback_up() -> None:
    """The new network namespace's loopback; where that is not allowed, the port simply cannot be reached."""
    import fcntl
    import struct

    with socket.socket() as s, contextlib.suppress(OSError):
        fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))


def tests_of(kind: str, secret: str) -> list[dict[str, Any]]:
    if kind == "leak":
        return [{"type": "stdin", "inputs": [""], "outputs": [secret]}]
    if kind == "act":
        return [{"type": "stdin", "inputs": [""], "outputs": ["escaped"]}]
    if kind == "forge":
        return [{"type": "stdin", "inputs": ["1 2\n", "3\n"], "outputs": ["8431", "2957"]}]
    if kind == "exhaust":
        return [{"type": "stdin", "inputs": [""], "outputs": ["8431"]}]
    if kind == "call":
        return [{"type": "function", "fn_name": "f", "inputs": [[1], [2]], "outputs": [8431, 2957]}]
    if kind == "hand":
        return [{"type": "assert", "asserts": HANDING, "setup": "import itertools\nclass Node:\n    pass"}]
    setup = (
        "import math\nEXPECTED = [8431, 2957]\n"
        "def check(g):\n    assert g(1) == 8431\n    assert sorted([g(1), g(2)]) == EXPECTED\n"
        "def helper(g, x):\n    return g(x) == {1: 8431, 2: 2957}[x]\n"
    )
    simple = ["assert f(1) == 8431", "assert f(2) == 2957"]
    hard = [
        "check(f)",
        "assert helper(f, 1)",
        "assert abs(f(1) - 8431) < 1e-6",
        "assert math.isclose(f(2), 2957)",
        "assert f(1) in [8431]",
        "assert set([f(2)]) == {2957}",
        "assert str(f(1)) == '8431'",
        "assert 8431 == f(1) and not f(1) != 8431",
        "assert [f(1), f(2)] == [8431, 2957]",
        "assert f(1) - 8431 == 0",
    ]
    return [{"type": "assert", "asserts": simple}, {"type": "assert", "asserts": hard, "setup": setup}]


HANDING = [
    "xs = [3, 1, 2]\nf(xs)\nassert xs == [8431, 2957]",
    "d, s, n = {}, {1}, Node()\nn.val = 1\nf(d)\nf(s)\nf(n)\nassert d == {1: 8431} or s == {2957} or n.val == 8431",
    "assert f(lambda x: x + 1) == 8431",
    "assert list(f(str)) == [8431, 2957]",
    "assert next(f(1)) == 8431",
    "assert list(itertools.islice(f(1), 2)) == [8431, 2957]",
    "with f(1) as g:\n    assert g == 8431",
    "g = f(1)\ng[0] = 1\nassert g[0] == 8431",
    "try:\n    f([1])\nexcept LookupError as error:\n    assert str(error) == '8431'\nelse:\n    assert False",
    "assert f.__doc__ == '8431' and f.limit == 2957",
]


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _others() -> list[str]:
    """Processes of this namespace that should not be there, after a moment.

    Whoever lost its parent is ours to reap, as it would be init's outside; what lives on stays, and is found.
    """
    mine = {1, os.getpid()}
    for _ in range(200):
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in mine:
                try:
                    name = (entry / "comm").read_text().strip()
                    if name not in ("timeout", "sh", "prlimit", "setpriv"):
                        found.append(f"{entry.name} {name}")
                except OSError:
                    pass
        if not found:
            return []
        time.sleep(0.05)
    return found


if __name__ == "__main__":
    main()
