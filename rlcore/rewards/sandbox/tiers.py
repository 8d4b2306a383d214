"""Selects the isolation tier of this machine by probing: read, connect, fork and kill from inside the sandbox.

    bwrap       a zygote in bubblewrap namespaces; its programs under seccomp, rlimits and, if available, Landlock
    landlock    a zygote on this system; its programs under Landlock, seccomp, rlimits; works in plain containers
    remote      another machine's sandbox over HTTP
    unsafe      only rlimits, for trusted programs; only on explicit request
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import platform
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlcore.rewards.config import SandboxConfig, Tier
from rlcore.rewards.sandbox import commands, landlock
from rlcore.rewards.sandbox.local import TRIES, LocalSandbox
from rlcore.rewards.sandbox.records import Ending, Job, Limits, Sandbox, SandboxError, SandboxLost
from rlcore.rewards.sandbox.zygote import Launch

HERE = Path(__file__).resolve().parent
SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo")
CURES = (
    "cures: a kernel of 5.13 or newer with Landlock in its list of LSMs; or install bubblewrap and allow user "
    "namespaces (seccomp=unconfined, a VM or bare metal); or reward.sandbox.tier=remote with reward.sandbox.url; or, "
    "for programs you would run yourself, reward.sandbox.tier=unsafe"
)

# Attempts of a hostile program. It prints the ones that succeeded.
PROBE = """
import json, os, socket
found = {}
def attempt(name, action):
    try:
        action()
        found[name] = True
    except BaseException:
        found[name] = False
def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
def connect():
    with socket.create_connection(("127.0.0.1", PORT), timeout=1):
        pass
attempt("read a file outside", lambda: open(CANARY).read())
attempt("change a file outside", lambda: open(CANARY, "a").write("x"))
attempt("change the mode of a file outside", lambda: os.chmod(CANARY, 0o600))
attempt("create a file", lambda: open("probe", "w").write("x"))
attempt("connect to a port", connect)
attempt("make a socket", lambda: socket.socket().close())
attempt("start a process", fork)
attempt("signal its parent", lambda: os.kill(os.getppid(), 0))
attempt("signal the verifier", lambda: os.kill(VICTIM, 0))
attempt("read the verifier's environment", lambda: open(f"/proc/{VICTIM}/environ", "rb").read())
attempt("read a secret of the environment", lambda: os.environ["RLCORE_CANARY"])
print(json.dumps(found), flush=True)
attempt("", lambda: os.execv("/bin/echo", ["echo", "executed"]))
"""


def python() -> str:
    """The real interpreter, not the link in a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def launch(tier: Tier, config: SandboxConfig, proc: bool = False) -> Launch:
    """Start command of the zygote of a local tier."""
    library = str(Path(os.__file__).resolve().parent)
    runtime = [python(), "-s", "-S", "-P", "-B", str(HERE / "runner.py"), "{fd}"]
    own = [os.path.abspath(os.path.expanduser(p)) for p in (*config.readable, *config.python_path)]
    readable = [*SYSTEM, library, str(HERE), *own]
    command = runtime
    if tier is Tier.bwrap:
        command = [*_bwrap([*readable, str(Path(library).parent.parent)], proc), "--", *runtime]
    return Launch(
        command=command,
        landlock=tier is Tier.landlock or (tier is Tier.bwrap and landlock.abi() > 0),
        seccomp=tier in (Tier.bwrap, Tier.landlock),
        own_uid=tier is Tier.bwrap,
        drop_root=tier is Tier.landlock,
        readable=readable,
        python_path=[os.path.abspath(os.path.expanduser(p)) for p in config.python_path],
        preload=config.preload,
    )


def _bwrap(readable: list[str], proc: bool) -> list[str]:
    words = ["bwrap", "--unshare-user", "--unshare-all", "--cap-drop", "ALL", "--uid", "65534", "--gid", "65534"]
    words += ["--as-pid-1", "--new-session", "--hostname", "sandbox"]
    words += ["--dev", "/dev"]
    words += ["--proc", "/proc"] if proc else []
    for path in dict.fromkeys(["/usr", "/bin", "/etc/alternatives", *commands.JAVA, *readable]):
        if path.startswith("/usr/") or not os.path.lexists(path):
            continue
        if os.path.islink(path) and path.count("/") == 1:
            words += ["--symlink", os.readlink(path), path]
        else:
            words += ["--ro-bind", path, path]
    return [*words, "--bind", "{scratch}", "{scratch}", "--chdir", "/", "--remount-ro", "/"]


def probe(sandbox: LocalSandbox) -> None:
    """Tries to break out of a new sandbox.

    Raises:
        SandboxError: it does not start, or a forbidden action succeeded.
    """
    with tempfile.TemporaryDirectory(prefix="rlcore-probe-") as folder, socket.socket() as listener:
        os.chmod(folder, 0o755)
        canary = Path(folder, "canary")
        secret = secrets.token_hex(8)
        canary.write_text(secret)
        canary.chmod(0o666)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        facts = {"CANARY": str(canary), "PORT": listener.getsockname()[1], "VICTIM": os.getpid()}
        source = "".join(f"{name} = {value!r}\n" for name, value in facts.items()) + PROBE
        before = os.environ.get("RLCORE_CANARY")
        os.environ["RLCORE_CANARY"] = secret
        try:
            (outcome,) = sandbox.run(Job(source, inputs=[""], limits=Limits(5.0, 512, 1, 20.0)))
        finally:
            os.environ.pop("RLCORE_CANARY")
            if before is not None:
                os.environ["RLCORE_CANARY"] = before
        if outcome.ending is not Ending.done:
            raise SandboxError(f"the probe program failed: {outcome.error}")
        first, *more = outcome.output.splitlines()
        could = [name for name, done in json.loads(first).items() if done] + ["execute a program"] * bool(more)
        if canary.read_text() != secret or canary.stat().st_mode & 0o777 != 0o666:
            could.append("a file outside was changed")
        if could:
            raise SandboxError(f"a program in it can {', '.join(could)}")


def _bwrap_tier(config: SandboxConfig) -> LocalSandbox:
    if shutil.which("bwrap") is None:
        raise SandboxError("bubblewrap is not installed")
    first: SandboxError | None = None
    for proc in (True, False):  # a masked /proc cannot be mounted again
        try:
            return _tried(launch(Tier.bwrap, config, proc), "bwrap: namespaces, seccomp, rlimits", config)
        except SandboxLost:
            raise
        except SandboxError as error:
            first = first or error
    raise first or SandboxError("unreachable")


def _landlock_tier(config: SandboxConfig) -> LocalSandbox:
    return _tried(launch(Tier.landlock, config), "landlock: Landlock, seccomp, rlimits", config)


def _tried(how: Launch, description: str, config: SandboxConfig) -> LocalSandbox:
    """Repeats a probe that was killed from outside, since that gives no information about the machine."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(SandboxLost):
            return _once(how, description, config)
    return _once(how, description, config)


def _once(how: Launch, description: str, config: SandboxConfig) -> LocalSandbox:
    sandbox = LocalSandbox(how, description, table(config))
    try:
        with sandbox.zygote() as zygote:
            facts = zygote.facts
        probe(sandbox)
    except BaseException:
        sandbox.close()
        raise
    if how.landlock:
        sandbox.description += f"{', Landlock' * how.own_uid} (version {facts['landlock']})"
    if facts["note"]:
        sandbox.description += f", {facts['note']}"
    return sandbox


def table(config: SandboxConfig) -> commands.Table:
    """The built-in languages and those of the config.

    Raises:
        SandboxError: a command without `file` or `run`, or with an unknown key.
    """
    own = {}
    for name, entry in config.languages.items():
        try:
            own[name] = commands.Command(**entry)
        except TypeError as error:
            raise SandboxError(f"reward.sandbox.languages.{name}: {error}; it needs file and run") from None
    return {**commands.TABLE, **own}


def make(config: SandboxConfig) -> Sandbox:
    """The strongest sandbox that the config and this machine allow, after a probe.

    Raises:
        SandboxError: none works; lists each failed probe, the kernel, and the cures.
        SandboxLost: the strongest was killed in each probe.
    """
    if config.tier is Tier.unsafe:
        how = launch(Tier.unsafe, config)
        description = "unsafe: only rlimits; programs can read, write and connect like you"
        sandbox = LocalSandbox(how, description, table(config))
        with sandbox.zygote():
            return sandbox
    if config.tier is Tier.remote:
        from rlcore.rewards.sandbox.remote import RemoteSandbox

        return RemoteSandbox(config.url or "", config.retries)
    tiers: dict[str, Callable[[SandboxConfig], LocalSandbox]] = {"bwrap": _bwrap_tier, "landlock": _landlock_tier}
    if config.tier is not Tier.auto:
        tiers = {config.tier.value: tiers[config.tier.value]}
    failures: list[str] = []
    for name, attempt in tiers.items():
        try:
            made = attempt(config)
        except SandboxLost:  # it worked before and will again, so no weaker tier is used
            raise
        except SandboxError as error:
            failures.append(f"{name}: {error}")
            continue
        if failures:
            made.description += f" [not {'; '.join(failures)}]"
        return made
    raise SandboxError(f"no sandbox works here (kernel {platform.release()}). {'. '.join(failures)}. {CURES}")


_made: dict[str, Sandbox] = {}
_lock = threading.Lock()
_owner = 0


def get(config: SandboxConfig, say: Callable[[str], Any] | None = None) -> Sandbox:
    """The sandbox of this process for a config. The first call probes it and reports the tier in one line through
    `say`.

    Raises:
        SandboxError: see `make`.
    """
    global _owner
    key = repr(config)
    with _lock:
        if _owner != os.getpid():  # a fork needs a new one: sockets cannot be shared
            _made.clear()
            _owner = os.getpid()
            atexit.register(close_all)
        if key not in _made:
            made = make(config)
            (say or _print)(f"sandbox for programs: {made.description}")
            _made[key] = made
        return _made[key]


def held(config: SandboxConfig) -> Sandbox | None:
    """The existing sandbox of `get`, without a probe."""
    return _made.get(repr(config)) if _owner == os.getpid() else None


def close_all() -> None:
    """Closes every sandbox that `get` created in this process."""
    with _lock:
        if _owner == os.getpid():
            for sandbox in _made.values():
                sandbox.close()
            _made.clear()


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
