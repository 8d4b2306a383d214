"""Connects to the Ray cluster of the config or RAY_ADDRESS, otherwise starts a private one on this machine."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import ray

from actors.config.schema import ClusterConfig
from actors.placement.ray_probe import Address, ClusterError, named_address, resolve, wait_for_answer

INIT = {"logging_level": "ERROR", "log_to_driver": False}
AUTH_MODE, AUTH_TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
SOCKET_BYTES = 107  # maximum path length of a Unix socket
# Ray's longest socket below its temporary folder: session_<date>_<time>_<microseconds>_<pid>/sockets/plasma_store
SESSION_BYTES = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
SHORT_FOLDERS = ("/tmp/ray", "/var/tmp/ray")


@contextmanager
def connected(cluster: ClusterConfig, message: Callable[[str], None] = print) -> Iterator[None]:
    """Joins the cluster of `cluster.address` or RAY_ADDRESS; without either it starts one on loopback and stops it on
    exit.

    An existing Ray connection of the process is used and kept.

    Args:
        message: called with one line if Ray's temporary files cannot be in TMPDIR.

    Raises:
        ClusterError: the named cluster cannot be joined within `cluster.deadlines.connect_s`, or Ray did not start.
    """
    if ray.is_initialized():
        yield
        return
    address, before = named_address(cluster), {name: os.environ.get(name) for name in (AUTH_MODE, AUTH_TOKEN)}
    reload_authentication()
    try:
        if address:
            join(address, cluster.deadlines.connect_s)
        else:
            _start_local(message)
        yield
    finally:
        ray.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        reload_authentication()


def check_address(cluster: ClusterConfig) -> None:
    """Checks that this program can join the configured cluster, if any. Fast: it starts nothing.

    Raises:
        ClusterError: see `connected`.
    """
    if not ray.is_initialized() and (address := named_address(cluster)):
        _reach(address, cluster.deadlines.connect_s)


def _reach(address: Address, timeout_s: float) -> tuple[Address, str]:
    """The address, with "auto" resolved, and the HOST:PORT that answered."""
    target = resolve(address)
    if address.value == "auto":
        address = replace(address, value=f"auto ({target})")
    wait_for_answer(address, target, timeout_s, enable_token=_enable_token)
    return address, target


def join(address: Address, timeout_s: float) -> None:
    """Connects to a running cluster, with the token of this user if the cluster requires one.

    Raises:
        ClusterError: no answer, refusal, not a Ray cluster, or other versions of Ray or Python.
    """
    end = time.monotonic() + timeout_s
    address, target = _reach(address, timeout_s)
    # In a thread, because `ray.init` waits in C++ for minutes and ignores signals.
    outcome: list[BaseException | None] = []

    def initialize() -> None:
        try:
            ray.init(address=target, ignore_reinit_error=True, **INIT)
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    _exit_on_sigterm()
    thread = threading.Thread(target=initialize, name="ray-init", daemon=True)
    thread.start()
    thread.join(max(0.0, end - time.monotonic()))
    if not outcome:
        raise ClusterError(
            address,
            f"answers, but this program could not join it within {timeout_s:g} s",
            "check that a Ray node runs on this machine (`ray start --address=...`) and that its ports are open; "
            "a slow cluster needs a larger cluster.deadlines.connect_s",
        )
    if outcome[0] is not None:
        if not isinstance(outcome[0], Exception):
            raise outcome[0]
        cure = "run on a machine of the cluster (`ray start --address=...` joins one), with the same Ray and Python"
        raise ClusterError(address, f"cannot be joined: {outcome[0]}", cure) from outcome[0]


def _exit_on_sigterm() -> None:
    """Handles SIGTERM like `ray.init` in a main thread: the stack unwinds and cleans up."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _start_local(message: Callable[[str], None]) -> None:
    # Otherwise Ray warns about, and will change, CUDA_VISIBLE_DEVICES of workers without GPUs.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    stay_on_loopback()
    folder, reason = temporary_folder()
    if reason:
        message(reason)
    _use_private_token()
    try:
        # "local": without an address Ray joins any cluster with a leftover file, dead or alive.
        ray.init(address="local", include_dashboard=False, _temp_dir=folder, ignore_reinit_error=True, **INIT)
    except (RuntimeError, OSError, ValueError, ray.exceptions.RayError) as error:
        cause = f"Ray did not start on this machine: {error}"
        raise ClusterError(None, cause, "`rlcore doctor` checks the usual causes") from error


def stay_on_loopback() -> None:
    """Makes a local cluster listen only on 127.0.0.1: Ray's desktop mode, disabled by default on Linux."""
    from ray._private import ray_constants  # Ray reads the variable at import, so setting it would affect only children

    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def temporary_folder() -> tuple[str | None, str]:
    """The `_temp_dir` for a local cluster (None: Ray's default), and the reason if it is not the default.

    Raises:
        ClusterError: the default is too long for Unix sockets and no short folder can be written.
    """
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    default = Path(os.environ[variable] if variable else "/tmp") / "ray"
    if len(os.fsencode(default)) + SESSION_BYTES <= SOCKET_BYTES:
        return None, ""
    limit = SOCKET_BYTES - SESSION_BYTES - len("/ray")
    reason = f"{variable}={default.parent} is too long for Ray's sockets (at most {limit} bytes)"
    for folder in SHORT_FOLDERS:
        try:
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder, f"{reason}: Ray's temporary files go to {folder}"
        except OSError:
            continue
    raise ClusterError(None, reason, "set RAY_TMPDIR to a shorter folder")


def _use_private_token() -> None:
    """Sets a token for this cluster in the environment.

    Otherwise Ray would write ~/.ray/auth_token for its first local cluster, and every later `ray start --head` of this
    user would require tokens.
    """
    if os.environ.get(AUTH_MODE, "token").lower() != "token":
        return
    if not ray._raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        os.environ[AUTH_TOKEN] = secrets.token_hex(32)
        ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def _enable_token() -> bool:
    """Enables the token of this user unless RAY_AUTH_MODE is set. False: no token, or RAY_AUTH_MODE is set."""
    if AUTH_MODE in os.environ or not ray._raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        return False
    os.environ[AUTH_MODE] = "token"
    reload_authentication()
    return True


def reload_authentication() -> None:
    """Reloads mode and token from the environment, because Ray caches both in this process."""
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
