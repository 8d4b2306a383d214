"""Servers that look like a Ray cluster."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
from ray._private.utils import compute_version_info

from actors.config.schema import ClusterConfig, DeadlinesConfig


def at(address: str | None, connect_s: float = 30.0) -> ClusterConfig:
    return ClusterConfig(address=address, deadlines=DeadlinesConfig(connect_s=connect_s))


@contextmanager
def listener(backlog: int = 5) -> Iterator[str]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(backlog)
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def fake_cluster(metadata: dict[str, str] | None) -> Iterator[str]:
    """A control service that knows its versions, and leaves every other question without an answer."""
    from ray.core.generated import gcs_service_pb2 as messages

    over = threading.Event()

    def known(request: object, context: object) -> object:
        return messages.InternalKVGetReply(value=json.dumps(metadata).encode() if metadata else b"")

    def wait(request: object, context: object) -> bytes:
        over.wait(60)
        return b""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):  # type: ignore[no-untyped-def]
            if details.method.endswith("/InternalKVGet") and not over.is_set():
                serialize = messages.InternalKVGetReply.SerializeToString
                return grpc.unary_unary_rpc_method_handler(known, response_serializer=serialize)
            return grpc.unary_unary_rpc_method_handler(wait)

    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        over.set()
        server.stop(0)


def versions(ray: str | None = None, python: str | None = None) -> dict[str, str]:
    ours = compute_version_info()
    return {"ray_version": ray or ours[0], "python_version": python or ours[1]}
