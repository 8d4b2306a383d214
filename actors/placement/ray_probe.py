"""Checks a Ray address before `ray.init`, which would wait for minutes without a message."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from actors.config.schema import ClusterConfig
from rlcore.problems import UserError

POLL_S = 0.2
PORTS = "`ray start --head` listens on 6379 by default; 8265 is the dashboard, 10001 the Ray Client server"
TOKENS = "https://docs.ray.io/en/latest/ray-security/token-auth.html"


@dataclass(frozen=True, slots=True)
class Address:
    """An address from the user, and its origin."""

    value: str
    source: str  # "cluster.address" or "RAY_ADDRESS"

    def __str__(self) -> str:
        return f"{self.source}={self.value}"

    @property
    def removal(self) -> str:
        how = "`unset RAY_ADDRESS`" if self.source == "RAY_ADDRESS" else f"leave out {self.source}"
        return f"{how} to start a private cluster on this machine instead"


class ClusterError(UserError, RuntimeError):
    """Ray cannot be used as configured. The message has the address, its origin, the cause and the cure."""

    def __init__(self, address: Address | None, cause: str, cure: str):
        self.cause = f"the Ray cluster at {address} {cause}" if address else cause
        super().__init__("\n  ".join([self.cause, cure, *([address.removal] if address else [])]))


def named_address(cluster: ClusterConfig) -> Address | None:
    """The address of the config or of RAY_ADDRESS; None: start a local cluster.

    As in Ray, RAY_ADDRESS takes precedence if `cluster.address` is "auto".
    """
    configured, environment = (cluster.address or "").strip(), os.environ.get("RAY_ADDRESS", "").strip()
    if configured and not (configured == "auto" and environment):
        address = Address(configured, "cluster.address")
    else:
        address = Address(environment, "RAY_ADDRESS")
    return None if address.value in ("", "local") else address


def resolve(address: Address) -> str:
    """HOST:PORT of the cluster's control service (GCS).

    Raises:
        ClusterError: not an address, or "auto" finds no cluster on this machine.
    """
    value = address.value
    if value == "auto":
        from ray._private import services

        try:
            return str(services.canonicalize_bootstrap_address_or_die("auto"))
        except ConnectionError:
            cure = "start one with `ray start --head`, or give HOST:PORT"
            raise ClusterError(address, "cannot be found: no Ray cluster runs on this machine", cure) from None
    if value.startswith("ray://"):
        cure = "run on a machine of the cluster with HOST:6379, or send the command there with `ray job submit`"
        raise ClusterError(address, "is a Ray Client address, which cannot host a training run", cure)
    if "://" in value:
        cure = "give HOST:6379; the URL of the dashboard is for `ray job submit`"
        raise ClusterError(address, "is a URL, not the HOST:PORT of a cluster", cure)
    try:
        parts = urlsplit(f"//{value}")
        if parts.hostname and parts.port and parts.netloc == value and not parts.username:
            return value
    except ValueError:
        pass
    raise ClusterError(address, "is not HOST:PORT", "give HOST:6379, or `auto` for the cluster of this machine")


def wait_for_answer(address: Address, target: str, timeout_s: float, enable_token: Callable[[], bool]) -> None:
    """Waits until the cluster at `target` answers, and checks access and the versions of Ray and Python.

    Args:
        target: HOST:PORT.
        timeout_s: limit of the whole wait.
        enable_token: enables token authentication in this process; returns False if it cannot.

    Raises:
        ClusterError: with the cause.
    """
    import grpc
    from ray.exceptions import AuthenticationError

    end = time.monotonic() + timeout_s
    _open_port(address, target, timeout_s)
    silent = f"accepts connections but did not answer within {timeout_s:g} s"
    with_token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    while True:
        try:
            metadata = _cluster_metadata(target, max(0.1, end - time.monotonic()))
        except AuthenticationError:  # RAY_AUTH_MODE=token without a token
            raise _token_error(address, with_token=False) from None
        except grpc.RpcError as error:
            code = error.code()
            if code is grpc.StatusCode.UNAUTHENTICATED:
                if enable_token():
                    with_token = True
                    continue
                raise _token_error(address, with_token) from None
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise ClusterError(address, silent, f"check host and port ({PORTS})") from None
            cause = "answers, but not as the control service of a Ray cluster"
            raise ClusterError(address, cause, f"check the port ({PORTS})") from error
        if metadata:
            break
        if time.monotonic() >= end:  # the head node is not registered yet
            raise ClusterError(address, f"was not ready within {timeout_s:g} s", "wait until its head node is up")
        time.sleep(POLL_S)
    _check_versions(address, json.loads(metadata))


def _open_port(address: Address, target: str, timeout_s: float) -> None:
    parts = urlsplit(f"//{target}")
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=timeout_s).close()
    except ConnectionRefusedError:
        cure = "start it, or name the cluster that runs (`ray status` on its head node)"
        raise ClusterError(address, "refuses connections: nothing listens there", cure) from None
    except TimeoutError:
        cure = "check the host, the firewall, and that this machine shares a network with it"
        raise ClusterError(address, f"does not answer within {timeout_s:g} s", cure) from None
    except socket.gaierror as error:
        raise ClusterError(address, f"has an unknown host: {error.strerror}", "check its name") from None
    except OSError as error:
        raise ClusterError(address, f"cannot be reached: {error.strerror or error}", "check host and network") from None


def _cluster_metadata(target: str, timeout_s: float) -> bytes:
    """Metadata that the head node wrote at its start: JSON; empty before. Raises: grpc.RpcError."""
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2 as messages

    # Like Ray's clients: do not use a proxy for the address of the cluster.
    channel = init_grpc_channel(target, options=[("grpc.enable_http_proxy", 0)])
    with channel:
        call = channel.unary_unary(
            "/ray.rpc.InternalKVGcsService/InternalKVGet",
            request_serializer=messages.InternalKVGetRequest.SerializeToString,
            response_deserializer=messages.InternalKVGetReply.FromString,
        )
        request = messages.InternalKVGetRequest(key=b"CLUSTER_METADATA", namespace=b"cluster")
        return bytes(call(request, timeout=timeout_s).value)


def _token_error(address: Address, with_token: bool) -> ClusterError:
    if with_token:
        cure = "copy ~/.ray/auth_token from its head node, or point RAY_AUTH_TOKEN_PATH to it"
        return ClusterError(address, "refuses the token of this user", f"{cure} ({TOKENS})")
    cure = (
        "set RAY_AUTH_MODE=token, and ~/.ray/auth_token, RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN to the token of its "
        f"head node ({TOKENS})"
    )
    return ClusterError(address, "requires a token, but none was sent", cure)


def _check_versions(address: Address, metadata: dict[str, str]) -> None:
    import ray
    from ray._private.utils import check_version_info, compute_version_info

    try:
        check_version_info(metadata, "this program")
    except RuntimeError:
        theirs, ours = (metadata["ray_version"], metadata["python_version"]), compute_version_info()[:2]
        there, here = (f"Ray {r} on Python {p}" for r, p in (theirs, ours))
        cure = "use one environment on all machines"
        raise ClusterError(address, f"runs {there}, this program {here} ({ray.__file__})", cure) from None
