"""Checks this machine and suggests fixes. It only probes, and changes or installs nothing.

Imports only the standard library, because it must work without the other packages.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OK, WARN, FAIL = "OK", "WARN", "FAIL"
GIB = 2**30
MIN_DISK_GIB = 5
SYS_LANDLOCK_CREATE_RULESET, LANDLOCK_VERSION_FLAG = 444, 1
PROBE_S = 120.0  # for a child process that imports torch and vLLM on a cold disk

# package: (lowest supported, first release not yet tried). The lowest are those of pyproject.toml.
SUPPORTED = {
    "torch": ("2.11", "2.15"),
    "ray": ("2.60", "3"),
    "grpcio": ("1.60", "2"),
    "deepspeed": ("0.19", "0.20"),
    "transformers": ("5.5", "6"),
    "peft": ("0.17", "0.22"),
    "hydra-core": ("1.3.2", "1.4"),
    "wandb": ("0.20", "1"),
    "math-verify": ("0.9", "0.10"),
    "sympy": ("1.13", "2"),
    "mpmath": ("1.3", "2"),
    "omegaconf": ("2.3", "2.4"),
    "jaxtyping": ("0.3", "1"),
    "matplotlib": ("3.9", "4"),
    "psutil": ("6", "8"),
    "regex": ("2024", "2100"),
    "rich": ("13.9", "16"),
    "numpy": ("2", "3"),
    "pyarrow": ("17", "100"),
    "safetensors": ("0.6", "1"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check. `status` is OK, WARN (something is slow or missing) or FAIL (training cannot start)."""

    name: str
    status: str
    found: str
    cure: str = ""


def doctor(start_ray: bool = True) -> list[Check]:
    """Runs all checks. A probe that raises is a FAIL with its error.

    Args:
        start_ray: also start and stop a local Ray, which takes some seconds.
    """
    probes: list[Callable[[], list[Check]]] = [
        _python, _packages, _compiler, _gpus, _vllm, _shared_memory, _open_files, _threads, _disk, _sandbox,
        _sockets, _token, _address,
    ]  # fmt: skip
    if start_ray:
        probes.append(_ray)
    found = []
    for probe in probes:
        try:
            found += probe()
        except Exception as error:
            found.append(Check(probe.__name__.strip("_"), FAIL, f"probe failed: {type(error).__name__}: {error}"))
    return found


def render(checks: list[Check]) -> str:
    """The report: one line per check with its cure, and the number of each status."""
    names = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:4}  {check.name:{names}}  {check.found}")
        if check.cure:
            lines.append(f"{'':{names + 8}}-> {check.cure}")
    counts = {status: sum(check.status == status for check in checks) for status in (OK, WARN, FAIL)}
    verdict = "cannot train" if counts[FAIL] else "can train"
    lines.append(f"{counts[OK]} OK, {counts[WARN]} WARN, {counts[FAIL]} FAIL: this machine {verdict}")
    return "\n".join(lines)


def _python() -> list[Check]:
    fine = sys.version_info >= (3, 11)
    cure = "" if fine else "use Python 3.11 or newer"
    return [Check("python", OK if fine else FAIL, platform.python_version(), cure)]


def version_key(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparison: "2.13.0+cpu" is (2, 13, 0)."""
    return tuple(int(n) for n in re.match(r"[\d.]*", version).group().split(".") if n)  # type: ignore[union-attr]


def _packages() -> list[Check]:
    found = []
    for name, (lowest, untried) in SUPPORTED.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found.append(Check(name, FAIL, "not installed", f"pip install '{name}>={lowest}'"))
            continue
        if version_key(version) < version_key(lowest):
            found.append(Check(name, FAIL, version, f"pip install '{name}>={lowest}'"))
        elif version_key(version) >= version_key(untried):
            found.append(Check(name, WARN, version, f"newer than tried; known to work: below {untried}"))
        else:
            found.append(Check(name, OK, version))
    return found


def _compiler() -> list[Check]:
    path = shutil.which("g++")
    if path:
        version = subprocess.run([path, "-dumpfullversion"], capture_output=True, text=True, timeout=10).stdout.strip()
        return [Check("g++", OK, f"{version} at {path}")]
    cure = "install it (Debian: apt-get install g++): DeepSpeed compiles its shared-memory collectives with it"
    return [Check("g++", WARN, "missing: DeepSpeed uses slower collectives on CPU", cure)]


def _gpus() -> list[Check]:
    try:
        import torch
    except ImportError as error:
        return [Check("GPUs", FAIL, f"torch does not import: {error}", "`make install` (CPU), or pip install '.[gpu]'")]

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        each = ", ".join(f"{p.name} {p.total_memory / GIB:.0f} GiB" for p in names)
        return [Check("GPUs", OK, f"{len(names)}: {each}; CUDA {torch.version.cuda}")]
    if shutil.which("nvidia-smi"):
        cure = "install a CUDA build of torch that fits the driver (see nvidia-smi)"
        return [Check("GPUs", WARN, f"a driver, but torch {torch.__version__} sees no GPU", cure)]
    return [Check("GPUs", OK, "none: use cluster=laptop")]


def _vllm() -> list[Check]:
    # In a child process, because importing vLLM registers plugins and starts threads.
    code = (
        "import json, importlib.metadata as m, vllm\n"
        "from vllm.platforms import current_platform as p\n"
        "plugins = [e.name for e in m.entry_points(group='vllm.general_plugins')]\n"
        "print('\\n@' + json.dumps([vllm.__version__, p.device_name or p.device_type, plugins]))"
    )
    answer, last = _child(code, dict(os.environ))
    if not answer:
        return [Check("vLLM", FAIL, f"does not import: {last[:200]}", "`make install` (CPU), or pip install '.[gpu]'")]
    version, device, plugins = json.loads(answer)
    checks = [Check("vLLM", OK, f"{version}, platform {device}")]
    if "rlcore_weights" not in plugins:
        cure = "install the package once (pip install --no-deps -e .): tensor-parallel engines find the sync through it"
        checks.append(Check("vLLM plug-in", WARN, "rlcore_weights is not registered", cure))
    return checks


def _child(code: str, env: dict[str, str]) -> tuple[str, str]:
    """(text that the code printed after @, empty on failure; last line of its errors)."""
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_S, env=env, check=False)
    answers = [line[1:] for line in run.stdout.splitlines() if line.startswith("@")]
    last = (run.stderr.strip().splitlines() or ["no output"])[-1]
    return (answers[-1] if answers and run.returncode == 0 else ""), last


def _shared_memory() -> list[Check]:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return [Check("shared memory", WARN, "no /dev/shm", "Ray will use a temporary folder: slower object transfer")]
    size = shutil.disk_usage(folder)
    fine = size.free >= GIB
    cure = "" if fine else "in a container: docker run --shm-size=8g (KubeRay: an emptyDir with medium Memory)"
    found = f"{size.free / GIB:.1f} of {size.total / GIB:.1f} GiB free"
    return [Check("shared memory", OK if fine else WARN, found, cure)]


def _open_files() -> list[Check]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fine = soft >= 8192
    cure = "" if fine else f"ulimit -n 65536 (the hard limit here is {hard}): many actors need many sockets"
    return [Check("open files", OK if fine else WARN, str(soft), cure)]


def _threads() -> list[Check]:
    cores, set_to = len(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS")
    found = f"{cores} usable, OMP_NUM_THREADS {set_to or 'not set'} here; workers get cluster.threads_per_worker"
    return [Check("CPU cores", OK, found)]


def _disk() -> list[Check]:
    places = {"disk, working directory": Path.cwd(), "disk, Ray's temporary files": Path(tempfile.gettempdir())}
    checks = []
    for name, folder in places.items():
        free = shutil.disk_usage(folder).free / GIB
        cure = "" if free >= MIN_DISK_GIB else "free some: checkpoints hold optimizer states, Ray spills objects"
        checks.append(Check(name, WARN if cure else OK, f"{free:.1f} GiB free", cure))
    return checks


def _sandbox() -> list[Check]:
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_VERSION_FLAG)
    cure = "kernel 5.13 or newer with landlock in its LSM list: without it code rewards lose one layer of isolation"
    missing = Check("Landlock", WARN, "not available", cure)
    landlock = Check("Landlock", OK, f"ABI {version}") if version > 0 else missing
    path = shutil.which("bwrap")
    if not path:
        return [landlock, Check("bubblewrap", OK, "not installed: optional, Landlock and seccomp isolate without it")]
    command = [path, "--ro-bind", "/", "/", "--unshare-all", "true"]
    run = subprocess.run(command, capture_output=True, timeout=20, check=False)
    works = "works" if run.returncode == 0 else "installed, but user namespaces are refused here (usual in containers)"
    return [landlock, Check("bubblewrap", OK, works)]


def _sockets() -> list[Check]:
    try:
        from actors.placement.ray_connection import temporary_folder
    except ImportError as error:
        return [Check("Ray's sockets", FAIL, f"not checked: {error}", "install the packages named above")]
    _, reason = temporary_folder()
    return [Check("Ray's sockets", WARN if reason else OK, reason or "TMPDIR is short enough")]


def _token() -> list[Check]:
    """Checks Ray's token. In Ray 2.60 `ray start --head` requires the token from every client if a token file exists.
    """
    mode, path = os.environ.get("RAY_AUTH_MODE", ""), os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(path).expanduser() if path else Path.home() / ".ray" / "auth_token"
    exists = "RAY_AUTH_TOKEN" in os.environ or file.is_file()
    if mode.lower() == "token" and not exists:
        cure = "run `ray get-auth-token --generate`, or set RAY_AUTH_TOKEN_PATH"
        return [Check("Ray token", WARN, "RAY_AUTH_MODE=token, but there is no token: no cluster can be joined", cure)]
    if exists and not mode:
        found = "found: `ray start --head` on this machine requires it from clients"
        cure = "`ray job submit` and `ray status` need RAY_AUTH_MODE=token; rlcore sends it if required"
        return [Check("Ray token", OK, found, cure)]
    return [Check("Ray token", OK, f"RAY_AUTH_MODE={mode}" if mode else "none: clusters started here are open")]


def _address() -> list[Check]:
    if not os.environ.get("RAY_ADDRESS", "").strip():
        return []
    try:
        from actors.config.schema import ClusterConfig, DeadlinesConfig
        from actors.placement.ray_connection import check_address

        check_address(ClusterConfig(deadlines=DeadlinesConfig(connect_s=15.0)))
    except Exception as error:  # a ClusterError, or a missing package
        first, *cures = str(error).splitlines()
        return [Check("RAY_ADDRESS", FAIL, first, "; ".join(line.strip() for line in cures))]
    return [Check("RAY_ADDRESS", OK, f"{os.environ['RAY_ADDRESS']} answers")]


def _ray() -> list[Check]:
    # In a child process, to keep a Ray connection of this process. Starts Ray like a run does.
    code = (
        "import ray, time\nfrom actors.config.schema import ClusterConfig\n"
        "from actors.placement.ray_connection import connected\n"
        "t = time.monotonic()\n"
        "with connected(ClusterConfig(address='local')):\n"
        "    assert ray.get(ray.remote(lambda: 7).remote(), timeout=60) == 7\n"
        "    print(f'@{time.monotonic() - t:.1f}')"
    )
    env = dict(os.environ)
    seconds, last = _child(code, env)
    if not seconds:
        cure = "see /tmp/ray/session_latest/logs; often a full disk, a full /dev/shm or a firewall on loopback"
        return [Check("Ray start", FAIL, last[:200], cure)]
    return [Check("Ray start", OK, f"a task answered after {seconds} s")]
