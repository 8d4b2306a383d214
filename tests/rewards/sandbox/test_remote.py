"""The sandbox of another machine: client and server."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlcore.rewards.code import score
from rlcore.rewards.sandbox import Call, Job, Limits, SandboxConfig, SandboxError, Tier, make
from rlcore.rewards.sandbox.remote import RemoteSandbox, from_message, to_message
from rlcore.rewards.sandbox.server import Server
from tests.rewards.sandbox.cases import ADD, STDIN, outputs


@pytest.fixture
def server(sandbox):
    made = Server(("127.0.0.1", 0), sandbox, concurrent=2)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()
    thread.join()


def test_remote_gives_the_same_verdicts(server, sandbox):
    remote = RemoteSandbox(server)
    assert remote.description.startswith(f"remote: {server} (landlock")
    jobs = [
        ADD,
        Job("def f(x, y=(1,)): return {x: [y, {2}]}", calls=[Call("f", [1]), Call("f", [2], {"y": 3.5}), Call("g")]),
        Job("def f(x): return x", asserts=["assert f(1) == 1", "assert f(1) == 2"]),
        Job("class A: pass\ndef f(): return A()", calls=[Call("f")]),
    ]
    for job in jobs:
        here, there = sandbox.run(job), remote.run(job)
        strip = [(o.ending, o.output, repr(o.value), o.error) for o in here]
        assert [(o.ending, o.output, repr(o.value), o.error) for o in there] == strip
        sent = json.loads(json.dumps(to_message(job)))
        assert to_message(from_message(sent)) == sent
    settings = {"tier": "remote", "url": server}
    assert score("print(int(input()) + 1)", STDIN, sandbox=settings).score == 1.0
    assert "outputs" not in to_message(ADD)


class Flaky(BaseHTTPRequestHandler):
    """Answers with the server's list of codes, one after the other; 0 hangs, 200 is no answer of ours."""

    def do_GET(self):
        self._say(200, b'{"sandbox": "flaky"}')

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        code = self.server.codes.pop(0)
        self.server.asked += 1
        if code == 0:
            self.server.wake.wait(10)
            return
        good = {"ending": "done", "output": "2", "value": None, "error": "", "seconds": 0}
        good |= {"weak": False, "broken": False}
        self._say(code, json.dumps({"outcomes": [good]}).encode() if code == 200 else b"no")

    def _say(self, code, body):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def flaky():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    made.codes, made.asked, made.wake = [], 0, threading.Event()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.wake.set()
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("codes", "asked", "outcome"),
    [
        ([200], 1, "2"),
        ([503, 429, 200], 3, "2"),
        ([503, 503, 503, 200], 3, "HTTP 503"),
        ([400, 200], 1, "HTTP 400"),
        ([0], 1, "does not answer"),
    ],
)
def test_remote_retries_within_the_deadline(flaky, codes, asked, outcome):
    remote = RemoteSandbox(f"http://127.0.0.1:{flaky.server_port}", retries=2)
    flaky.codes[:] = codes
    began = time.monotonic()
    job = Job("print(2)", inputs=[""], limits=Limits(deadline_s=2.0))
    if outcome == "2":
        assert outputs(remote.run(job)) == ["2"]
    else:
        with pytest.raises(SandboxError, match=outcome):
            remote.run(job)
    assert flaky.asked == asked
    assert time.monotonic() - began < 20


def test_an_unreachable_remote_is_an_error_at_the_start():
    with pytest.raises(SandboxError, match="does not answer"):
        make(SandboxConfig(tier=Tier.remote, url="http://127.0.0.1:1", retries=0))
