"""Client of `rlcore.rewards.sandbox.server`: the sandbox of another machine over HTTP.

    POST URL/run   {"source", "language", "inputs" | "calls" | "asserts", "setup", "shared_setup", "limits"}
                   -> {"outcomes": [{"ending", "output", "value", "error", "seconds", "weak", "broken"}]}
    GET URL/health -> {"sandbox": description}

Values are encoded as in `values`. Expected outputs are not sent, but assert statements are. Status 429, 5xx and
connection errors are retried with growing pauses, within the job's deadline.
"""

from __future__ import annotations

import http.client
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rlcore.rewards.sandbox import values
from rlcore.rewards.sandbox.records import Call, Ending, Job, Limits, Outcome, SandboxError

PAUSE_S, MAX_PAUSE_S = 0.2, 5.0
PROBE_TIMEOUT_S = 20.0
MAX_ANSWER = 256 << 20


def to_message(job: Job) -> dict[str, Any]:
    calls = [{"name": c.name, "args": _sent([*c.args]), "kwargs": _sent({**c.kwargs})} for c in job.calls]
    message: dict[str, Any] = {"source": job.source, "language": job.language, "inputs": list(job.inputs)}
    message |= {"calls": calls}
    message |= {"asserts": list(job.asserts), "setup": job.setup, "shared_setup": job.shared_setup}
    return message | {"limits": asdict(job.limits), "answer_bytes": job.answer_bytes}


def _sent(value: Any) -> Any:
    return values.encode(value)


def from_message(message: Mapping[str, Any]) -> Job:
    """Parses a job. Raises KeyError, TypeError or ValueError if it is invalid."""
    calls = [Call(c["name"], values.decode(c["args"]), values.decode(c["kwargs"])) for c in message["calls"]]
    texts = {name: str(message[name]) for name in ("source", "language", "setup", "shared_setup")}
    lists = {name: [str(text) for text in message[name]] for name in ("inputs", "asserts")}
    limits, size = Limits(**message["limits"]), int(message["answer_bytes"])
    return Job(**texts, **lists, calls=calls, limits=limits, answer_bytes=size)  # type: ignore[arg-type]


def outcome_message(outcome: Outcome) -> dict[str, Any]:
    try:
        value = values.encode(outcome.value)
    except (values.ValueRefused, RecursionError):  # an object that stayed in the sandbox
        value = {"h": 0, "type": getattr(outcome.value, "type_name", "?")}
    return {**{name: getattr(outcome, name) for name in FIELDS}, "ending": outcome.ending.value, "value": value}


FIELDS = ("output", "error", "seconds", "weak", "broken")


def to_outcome(message: Mapping[str, Any]) -> Outcome:
    """Parses an outcome. Raises KeyError, TypeError or ValueError if it is invalid."""
    return Outcome(
        ending=Ending(message["ending"]),
        output=str(message["output"]),
        value=values.decode(message["value"]),
        error=str(message["error"]),
        seconds=float(message["seconds"]),
        weak=message["weak"] is True,
        broken=message["broken"] is True,
    )


class RemoteSandbox:
    """Runs jobs at `url`.

    Raises:
        SandboxError: no URL, or no server answers there.
    """

    def __init__(self, url: str, retries: int = 2) -> None:
        if not url.startswith(("http://", "https://")):
            raise SandboxError(f"reward.sandbox.tier=remote needs reward.sandbox.url=http://host:port, got {url!r}")
        self.url, self.retries = url.rstrip("/"), retries
        deadline = time.monotonic() + PROBE_TIMEOUT_S
        self.description = f"remote: {self.url} ({self._ask('/health', None, deadline).get('sandbox')})"

    def run(self, job: Job) -> list[Outcome]:
        """See `records.Sandbox.run`."""
        deadline = time.monotonic() + job.limits.deadline_s + 0.5
        answer = self._ask("/run", json.dumps(to_message(job)).encode(), deadline)
        try:
            outcomes = [to_outcome(outcome) for outcome in answer["outcomes"]]
        except (KeyError, TypeError, ValueError) as error:
            raise SandboxError(f"{self.url} answered no outcomes: {type(error).__name__}: {error}") from error
        if len(outcomes) != job.num_tests:
            raise SandboxError(f"{self.url} answered {len(outcomes)} outcomes for {job.num_tests} tests")
        return outcomes

    def close(self) -> None:
        """Does nothing: no connection is kept open."""

    def _ask(self, path: str, body: bytes | None, deadline: float) -> dict[str, Any]:
        failure = "the deadline came first"
        for attempt in range(self.retries + 1):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                return self._once(path, body, left)
            except urllib.error.HTTPError as error:
                failure = f"HTTP {error.code}: {error.read(300).decode(errors='replace')}"
                error.close()
                if error.code != 429 and error.code < 500:
                    break
            except (OSError, http.client.HTTPException, ValueError) as error:
                failure = f"{type(error).__name__}: {error}"
            pause = min(PAUSE_S * 2**attempt, MAX_PAUSE_S) * random.uniform(0.5, 1.0)
            if attempt < self.retries and time.monotonic() + pause < deadline:
                time.sleep(pause)
        raise SandboxError(f"the remote sandbox {self.url} does not answer: {failure}")

    def _once(self, path: str, body: bytes | None, left_s: float) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        deadline = time.monotonic() + left_s
        with urllib.request.urlopen(request, timeout=max(0.05, left_s)) as response:
            data = bytearray()
            while piece := response.read1(1 << 16):  # also for servers that send slowly
                data += piece
                if time.monotonic() > deadline:
                    raise TimeoutError("the answer came too slowly")
                if len(data) > MAX_ANSWER:
                    raise ValueError("the answer is too long")
        answer = json.loads(data)
        if not isinstance(answer, dict):
            raise ValueError("the answer is not a JSON object")
        return answer
