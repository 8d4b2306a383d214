"""HTTP server of a sandbox: `python -m rlcore.rewards.sandbox.server --host 127.0.0.1 --port 8070 [--tier landlock]`.

For trainers in containers that allow no isolation (see `remote` for the protocol). The server has no authentication:
make it reachable only for the trainers.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rlcore.rewards.config import SandboxConfig, Tier
from rlcore.rewards.sandbox import make
from rlcore.rewards.sandbox.records import Sandbox, SandboxError
from rlcore.rewards.sandbox.remote import from_message, outcome_message

MAX_REQUEST = 256 << 20
IDLE_TIMEOUT_S = 60.0  # timeout of an idle connection


class Server(ThreadingHTTPServer):
    """Serves `sandbox`; at most `concurrent` jobs run at once, others get HTTP 429."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], sandbox: Sandbox, concurrent: int = 0) -> None:
        self.sandbox = sandbox
        self.free = threading.BoundedSemaphore(concurrent or 2 * (os.cpu_count() or 1))
        super().__init__(address, Handler)


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = IDLE_TIMEOUT_S

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(200, {"sandbox": self.server.sandbox.description})
        else:
            self._answer(404, {"error": "there are /health and /run"})

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        if self.path != "/run" or not 0 < size <= MAX_REQUEST:
            self._answer(404, {"error": "POST a job to /run"})
            return
        body = self.rfile.read(size)
        if not self.server.free.acquire(blocking=False):
            self._answer(429, {"error": "all sandboxes are busy"})
            return
        try:
            outcomes = self.server.sandbox.run(from_message(json.loads(body)))
            self._answer(200, {"outcomes": [outcome_message(outcome) for outcome in outcomes]})
        except SandboxError as error:
            self._answer(503, {"error": str(error)})
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            self._answer(400, {"error": f"not a job: {type(error).__name__}: {error}"})
        finally:
            self.server.free.release()

    def _answer(self, code: int, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        try:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # the client is gone
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Disables the log line per request."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8070)
    parser.add_argument("--tier", default="auto", choices=[tier.value for tier in Tier if tier is not Tier.remote])
    parser.add_argument("--concurrent", type=int, default=0, help="jobs at once; 0: two per core")
    options = parser.parse_args()
    sandbox = make(SandboxConfig(tier=Tier(options.tier)))
    server = Server((options.host, options.port), sandbox, options.concurrent)
    print(f"sandbox for programs: {sandbox.description}; http://{options.host}:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()
        sandbox.close()


if __name__ == "__main__":
    main()
