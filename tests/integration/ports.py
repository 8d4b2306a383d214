"""Ports for processes that start to listen only after they have imported everything."""

from __future__ import annotations

import random
import socket

RANGE = range(20_000, 32_000)  # above those of Ray's workers, below those that Linux gives to connections


def free_port() -> int:
    """A port that nothing listens on, and that no other process is given by chance meanwhile."""
    for port in random.SystemRandom().sample(RANGE, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port in {RANGE}")
