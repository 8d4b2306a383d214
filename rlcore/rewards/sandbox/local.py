"""Runs jobs in zygotes on this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from rlcore.rewards.sandbox import commands, values
from rlcore.rewards.sandbox.outcome import MAX_ERROR, TOO_LATE, cut_short, ending, feed
from rlcore.rewards.sandbox.records import Call, Ending, Job, Limits, Outcome, SandboxError, SandboxLost
from rlcore.rewards.sandbox.zygote import Launch, Running, Zygote

MAX_PROGRAMS = 2000  # of one zygote
TRIES = 4  # tries of a job if its sandbox is killed
IDLE = 4  # idle zygotes kept for the next job


class LocalSandbox:
    """A few zygotes that run one program each; a new one is started if all are busy.

    Args:
        launch: starts a zygote.
        description: of the tier, for messages.
        table: languages other than Python, see `commands`.
    """

    def __init__(self, launch: Launch, description: str, table: commands.Table | None = None) -> None:
        self.launch, self.description = launch, description
        self.table = commands.TABLE if table is None else table
        self._idle: list[Zygote] = []
        self._lock, self._closed, self._owner = threading.Lock(), False, os.getpid()

    def run(self, job: Job) -> list[Outcome]:
        """See `records.Sandbox.run`. A failed sandbox is replaced and the job repeated once, or several times if it was
        killed, within the first half of the time to the deadline.
        """
        deadline = time.monotonic() + job.limits.deadline_s
        failures: list[SandboxError] = []
        while True:
            try:
                return self._run(job, deadline)
            except SandboxError as error:
                failures.append(error)
                tries = TRIES if all(isinstance(e, SandboxLost) for e in failures) else 2
                if len(failures) >= tries or time.monotonic() > deadline - 0.5 * job.limits.deadline_s:
                    kind = SandboxLost if tries == TRIES else SandboxError
                    raise kind("; on the next try: ".join(map(str, failures))) from error

    def close(self) -> None:
        with self._lock:
            self._closed, idle, self._idle = True, self._idle, []
        for zygote in idle:
            zygote.close()

    def _run(self, job: Job, deadline: float) -> list[Outcome]:
        if job.language != "python":
            with self.zygote(deadline) as zygote:
                return commands.run(zygote, job, deadline, self.table)
        if job.calls:
            return _Calls(self, job, deadline).run()
        if job.asserts:
            return _Asserts(self, job, deadline).run()
        return self._inputs(job, deadline)

    @contextlib.contextmanager
    def zygote(self, deadline: float | None = None) -> Iterator[Zygote]:
        """An idle zygote, or a new one that starts before the deadline. A failed zygote is not reused."""
        zygote = self._take() or Zygote(self.launch, deadline)
        try:
            yield zygote
        except BaseException:
            zygote.close(hurry=True)
            raise
        with self._lock:
            # its program is not reaped yet: it hangs, or frees memory on a busy machine
            keep = not (self._closed or zygote.pending) and len(self._idle) < IDLE and zygote.programs < MAX_PROGRAMS
            if keep:
                self._idle.append(zygote)
        if not keep:
            zygote.close(hurry=zygote.pending)

    def _take(self) -> Zygote | None:
        dead, found = [], None
        with self._lock:
            if self._owner != os.getpid():  # a fork must not use its parent's sockets
                self._idle, self._owner = [], os.getpid()
            while self._idle and found is None:
                zygote = self._idle.pop()
                if zygote.alive():
                    found = zygote
                else:  # killed from outside: does not count as a try
                    dead.append(zygote)
        for zygote in dead:
            zygote.close(hurry=True)
        return found

    def _inputs(self, job: Job, deadline: float) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while len(outcomes) < len(job.inputs) and time.monotonic() < deadline:
            with self.zygote(deadline) as zygote:
                while len(outcomes) < len(job.inputs) and time.monotonic() < deadline and not zygote.pending:
                    text = job.inputs[len(outcomes)]
                    outcomes.append(feed(zygote, "stdin", {"source": job.source}, text, job.limits, deadline))
        return outcomes + [TOO_LATE] * (len(job.inputs) - len(outcomes))


class Session:
    """A program in a zygote that answers requests over a separate socket."""

    def __init__(self, zygote: Zygote, mode: str, spec: dict[str, Any], limits: Limits, deadline: float) -> None:
        self.channel, theirs = socket.socketpair()
        self.limits, self.deadline, self.short = limits, deadline, cut_short(limits, deadline)
        self.max_bytes = values.MAX_FRAME
        self.errors = os.memfd_create("errors")
        fds = [os.open(os.devnull, os.O_RDONLY), os.memfd_create("output"), self.errors, theirs.fileno()]
        try:
            self.running: Running = zygote.start(mode, spec, limits, deadline, fds)
        except BaseException:
            self.channel.close()
            os.close(self.errors)
            raise
        finally:
            theirs.close()
            os.close(fds[0])
            os.close(fds[1])

    def send(self, message: dict[str, Any]) -> bool:
        """Sends a frame; False if the program closed its end or does not read."""
        self.channel.settimeout(max(0.1, self.deadline - time.monotonic()))
        try:
            self.channel.sendall(values.dumps(message))
        except OSError:
            return False
        return True

    def arm(self, time_s: float) -> None:
        """Restarts the clocks for the next test."""
        self.short = cut_short(self.limits, self.deadline)
        self.running.arm(time_s)

    def receive(self) -> dict[str, Any] | None:
        return self.running.receive(self.channel, self.max_bytes)

    def ask(self, message: dict[str, Any]) -> dict[str, Any] | None:
        return self.receive() if self.send(message) else None

    def close(self) -> None:
        """Kills the program, unless it has ended."""
        try:
            with contextlib.suppress(SandboxError):  # its answers are valid; the next job detects a dead zygote
                self.running.kill()
        finally:
            self.channel.close()
            os.close(self.errors)

    def outcome(self) -> Outcome:
        """The outcome of a program that stopped answering."""
        found = ending(self.running.kill(), self.errors, "", self.short)
        if found.ending is Ending.done or self.running.ended is None or self.running.ended.cause == "told":
            return Outcome(Ending.error, error="it stopped answering", seconds=found.seconds)
        return found


class _Tests:
    """Runs the tests of a program; after a crash or a hang, the remaining ones in new processes."""

    def __init__(self, sandbox: LocalSandbox, job: Job, deadline: float) -> None:
        self.sandbox, self.job, self.deadline = sandbox, job, deadline
        self.spec = {"source": job.source, "setup": job.shared_setup}
        self.outcomes: list[Outcome] = []

    def run(self) -> list[Outcome]:
        while len(self.outcomes) < self.job.num_tests and time.monotonic() < self.deadline:
            self._round()
        self._rest(TOO_LATE)
        return self.outcomes

    def _round(self) -> None:
        """Adds at least one outcome."""
        raise NotImplementedError

    def _rest(self, outcome: Outcome) -> None:
        self.outcomes += [outcome] * (self.job.num_tests - len(self.outcomes))


class _Calls(_Tests):
    """Calls functions of a program."""

    def _round(self) -> None:
        with self.sandbox.zygote(self.deadline) as zygote:
            session = Session(zygote, "calls", self.spec, self.job.limits, self.deadline)
            session.max_bytes = min(values.MAX_FRAME, self.job.answer_bytes)
            try:
                self._serve(session)
            finally:
                session.close()

    def _serve(self, session: Session) -> None:
        if (why := unloaded(session)) is not None:
            self._rest(why)
            return
        while len(self.outcomes) < self.job.num_tests and time.monotonic() < self.deadline:
            session.arm(self.job.limits.time_s)
            answer = session.ask(request(self.job.calls[len(self.outcomes)]))
            if answer is None:
                self.outcomes.append(session.outcome())
                return
            self.outcomes.append(claimed(answer))


def unloaded(session: Session) -> Outcome | None:
    """The reason why a program is not ready for calls; None if it is ready. The first frame is sent before the program
    runs.
    """
    first = session.receive()
    if first is not None and "broken" in first:
        error = failed({"e": first["broken"]}).error
        return Outcome(Ending.error, error=f"the setup of the tests fails: {error}", broken=True)
    loaded = None if first is None else session.receive()
    if loaded is not None and "v" in loaded:
        return None
    why = session.outcome() if loaded is None else failed(loaded)
    return Outcome(why.ending, error=f"while it was loaded: {why.error}", seconds=why.seconds)


def request(call: Call) -> dict[str, Any]:
    args = [values.encode(a) for a in call.args]
    return {"name": call.name, "args": args, "kwargs": {key: values.encode(v) for key, v in call.kwargs.items()}}


def claimed(answer: dict[str, Any]) -> Outcome:
    """The outcome of a return value as reported by the program."""
    if "v" not in answer:
        return failed(answer)
    try:
        return Outcome(Ending.done, value=values.decode(answer["v"]))
    except (values.ValueRefused, RecursionError, MemoryError) as error:
        return Outcome(Ending.error, error=f"it returned an unsupported value: {error}")


def failed(answer: dict[str, Any]) -> Outcome:
    error = answer.get("e")
    shown = ": ".join(str(part)[:MAX_ERROR] for part in error[:2]) if isinstance(error, list) else "no answer"
    return Outcome(Ending.error, error=shown)


class _Asserts(_Tests):
    """Runs assert statements in one process and the program in another; the verifier relays requests between them."""

    def _round(self) -> None:
        with self.sandbox.zygote(self.deadline) as one, self.sandbox.zygote(self.deadline) as other:
            self._pair(one, other)

    def _pair(self, one: Zygote, other: Zygote) -> None:
        job, limits = self.job, self.job.limits
        program = Session(one, "calls", self.spec, limits, self.deadline)
        try:
            tests: dict[str, Any] = {"setup": job.setup, "asserts": list(job.asserts)}
            patient = Limits(2 * limits.time_s + 1, 1024, limits.output_mb, limits.deadline_s)
            checker = Session(other, "check", tests, patient, self.deadline)
            try:
                self._serve(program, checker)
            finally:
                checker.close()
        finally:
            program.close()

    def _serve(self, program: Session, checker: Session) -> None:
        if (why := unloaded(program)) is not None:
            self._rest(why)
            return
        ready = self._relay(program, checker)
        if isinstance(ready, Outcome):
            self._rest(ready)
            return
        if "ready" not in ready:
            fault = failed({"e": ready.get("broken", ready.get("e"))}).error
            self._rest(Outcome(Ending.error, error=f"the setup of the tests fails: {fault}", broken="broken" in ready))
            return
        while len(self.outcomes) < self.job.num_tests and time.monotonic() < self.deadline:
            time_s = self.job.limits.time_s
            program.arm(time_s)
            checker.arm(2 * time_s + 1)
            checker.send({"test": len(self.outcomes)})
            verdict = self._relay(program, checker)
            if isinstance(verdict, Outcome):
                self.outcomes.append(verdict)
                return
            self.outcomes.append(_verdict(verdict))
            if verdict.get("told") is True:
                return  # other tests continue with a process that has received no values

    def _relay(self, program: Session, checker: Session) -> dict[str, Any] | Outcome:
        """Relays requests of the checker to the program until the checker sends another message."""
        while True:
            message = checker.receive()
            if message is None:
                found = checker.outcome()
                return Outcome(found.ending, error=f"the check itself: {found.error}")
            if "ask" not in message:
                return message
            answer = program.ask(message["ask"])
            if answer is None:
                return program.outcome()
            checker.send(_passed_on(answer))


def _passed_on(answer: dict[str, Any]) -> dict[str, Any]:
    """The part of a program's message that is passed to the checker."""
    if "v" in answer:
        after = answer.get("after")
        return {"v": answer["v"], "after": after if isinstance(after, list) else []}
    if type(answer.get("call")) is int and answer["call"] >= 0 and isinstance(answer.get("args"), list):
        return {"call": answer["call"], "args": answer["args"]}
    bases = answer.get("bases")
    bases = [b for b in bases if isinstance(b, str)] if isinstance(bases, list) else []
    return {"e": answer["e"] if _is_error(answer) else ["Exception", "no answer"], "bases": bases}


def _is_error(answer: dict[str, Any]) -> bool:
    error = answer.get("e")
    return isinstance(error, list) and len(error) == 2 and all(isinstance(part, str) for part in error)


def _verdict(message: dict[str, Any]) -> Outcome:
    if message.get("held") is True:
        return Outcome(Ending.done, value=True, weak=message.get("weak") is True)
    return Outcome(Ending.done, value=False, error=failed(message).error)
