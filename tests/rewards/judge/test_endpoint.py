"""A judge by URL against a real server of the test's own on loopback."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlcore.rewards.judge import endpoint
from rlcore.rewards.judge.config import JudgeConfig, JudgeEndpointConfig, JudgeReading
from rlcore.rewards.judge.endpoint import EndpointCompleter, EndpointError
from rlcore.rewards.judge.pairwise import PairwiseJudge
from rlcore.rewards.judge.pointwise import PointwiseJudge
from rlcore.rewards.judge.prompts import Comparison, Question
from rlcore.types import Status

KEY = "very-private-value-123"


class Server:
    """`script(text, attempt)` gives (status code, body, headers, seconds before the answer)."""

    def __init__(self, script):
        self.script, self.seen, self.attempts = script, [], {}
        self.now = self.most = 0
        self.lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer.handle(self)

            def log_message(self, *args): ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def handle(self, request):
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with self.lock:
            self.seen.append((request.path, request.headers.get("Authorization"), body))
            attempt = self.attempts[text] = self.attempts.get(text, 0) + 1
            self.now += 1
            self.most = max(self.most, self.now)
        code, answer, headers, seconds = self.script(text, attempt)
        time.sleep(seconds)
        with self.lock:
            self.now -= 1
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        try:
            request.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(data)
        except OSError:  # the client went away
            pass


def said(text, finish="stop", **more):
    return 200, {"choices": [{"message": {"content": text}, "finish_reason": finish, **more}]}, {}, 0.0


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSE_S", 0.02)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    servers = []

    def start(script, **settings):
        server = Server(script)
        servers.append(server)
        url = f"http://127.0.0.1:{server.http.server_address[1]}/v1/"
        made = JudgeEndpointConfig(**{"base_url": url, "model": "m", "request_timeout_s": 5.0, "deadline_s": 20.0,
                                      **settings})  # fmt: skip
        return server, EndpointCompleter(made)

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def test_requests_and_answers(serve, monkeypatch):
    monkeypatch.setenv("MY_JUDGE", KEY)
    server, completer = serve(lambda text, n: said(text.upper()), api_env="MY_JUDGE", extra={"seed": 5})
    replies = completer.complete(["a", [{"role": "system", "content": "s"}, {"role": "user", "content": "b"}]], 7, 0.3)
    assert [r.text for r in replies] == ["A", "B"]
    path, authorization, body = next(s for s in server.seen if len(s[2]["messages"]) == 2)
    assert (path, authorization) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert body == {"model": "m", "max_tokens": 7, "temperature": 0.3, "seed": 5,
                    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "b"}]}  # fmt: skip
    assert completer.complete([], 7) == []


@pytest.mark.parametrize(
    ("first", "attempts"),
    [
        ((429, {"error": "slow down"}, {"Retry-After": "0.1"}, 0.0), 2),
        ((500, b"oops", {}, 0.0), 2),
        ((503, b"", {}, 0.0), 2),
        ((200, b"<html>garbage", {}, 0.0), 2),
        ((200, {"choices": []}, {}, 0.0), 2),
        ((200, ["no object"], {}, 0.0), 2),
        ((200, {"choices": [{"message": {"content": ["?"]}}]}, {}, 0.0), 2),
        ((200, b"\xff\xfe", {}, 0.0), 2),
    ],
)
def test_what_passes_is_tried_again(serve, first, attempts):
    server, completer = serve(lambda text, n: first if n == 1 else said("[[A]]"))
    assert completer.complete(["q"], 5)[0].text == "[[A]]"
    assert len(server.seen) == attempts


def test_the_server_says_when_to_come_again(serve):
    _, completer = serve(lambda t, n: (429, b"", {"Retry-After": "0.5"}, 0.0) if n == 1 else said("x"))
    begun = time.monotonic()
    assert completer.complete(["q"], 5)[0].text == "x"
    assert time.monotonic() - begun >= 0.5


def test_every_sample_has_a_status_of_its_own(serve):
    answers = {
        "ok": said("fine"),
        "denied": (401, {"error": f"bad key {KEY}"}, {}, 0.0),
        "down": (500, b"always", {}, 0.0),
        "slow": (200, {}, {}, 2.0),
    }
    server, completer = serve(lambda text, n: answers[text], retries=2, request_timeout_s=0.3)
    ok, denied, down, slow = completer.complete(list(answers), 5)
    assert (ok.status, ok.text) == (Status.OK, "fine")
    assert (denied.status, down.status, slow.status) == (Status.ERROR, Status.ERROR, Status.TIMEOUT)
    assert "HTTP 401" in denied.error
    assert "HTTP 500: always (3 attempts)" in down.error
    assert "no answer within 0.3 s (3 attempts)" in slow.error
    assert server.attempts == {"ok": 1, "denied": 1, "down": 3, "slow": 3}


def test_retries_end_at_the_deadline(serve):
    _, completer = serve(lambda t, n: (429, b"", {"Retry-After": "60"}, 0.0), deadline_s=1.0)
    begun = time.monotonic()
    [reply] = completer.complete(["q"], 5)
    assert time.monotonic() - begun < 10
    assert reply.status is Status.ERROR
    assert "deadline_s=1" in reply.error


def test_nobody_there(serve):
    server, completer = serve(lambda t, n: said("x"), retries=1)
    server.http.shutdown()
    server.http.server_close()
    [reply] = completer.complete(["q"], 5)
    assert (reply.status, "2 attempts" in reply.error) == (Status.ERROR, True)


def test_concurrency_is_bounded_and_used(serve):
    server, completer = serve(lambda t, n: (*said("x")[:3], 0.1), max_concurrency=3)
    replies = completer.complete([f"q{i}" for i in range(12)], 5)
    assert [r.text for r in replies] == ["x"] * 12
    assert server.most == 3


def test_the_key_never_shows(serve, monkeypatch):
    monkeypatch.setenv("MY_JUDGE", KEY)
    _, completer = serve(lambda t, n: (400, {"error": f"got {KEY}"}, {}, 0.0), api_env="MY_JUDGE")
    [reply] = completer.complete(["q"], 5)
    assert "HTTP 400" in reply.error
    assert KEY not in reply.error


def test_settings_are_checked(monkeypatch):
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(EndpointError, match=r"(?s)base_url.*model"):
        EndpointCompleter(JudgeEndpointConfig())
    with pytest.raises(EndpointError, match="NOT_THERE: that environment variable is not set"):
        EndpointCompleter(JudgeEndpointConfig(base_url="http://x/v1", model="m", api_env="NOT_THERE"))
    with pytest.raises(EndpointError) as told:
        EndpointCompleter(JudgeEndpointConfig(base_url="http://x/v1", model="m", api_env="sk-oh-no-123"))
    assert "sk-oh-no" not in str(told.value)


def test_a_judge_by_url_end_to_end(serve):
    def script(text, attempt):
        if text.startswith("That holds no rating"):
            return said("[[9]]")
        return said("I like it" if "needs a reminder" in text else "good\n[[10]]")

    _, completer = serve(script)
    asked = [Question("p", "r"), Question("needs a reminder", "r")]
    first, second = PointwiseJudge(completer, JudgeConfig()).rate(asked)
    assert (first.score, second.score) == (1.0, pytest.approx(8 / 9))


def test_choices_by_url(serve):
    def top(*pairs):
        return {"content": [{"top_logprobs": [{"token": t, "logprob": x} for t, x in pairs]}]}

    def script(text, attempt):
        x_first = text.index("x") < text.index("y")
        return said("A", logprobs=top(("A", -0.5), (" B", -1.5), ("The", -3.0)) if x_first else top((" A", -9.0)))

    config = JudgeConfig()
    config.reading.how, config.prompts.pairwise = JudgeReading.choice, "{response_a} {response_b}"
    server, completer = serve(script)
    [verdict] = PairwiseJudge(completer, config).compare([Comparison("p", "x", "y")])
    assert verdict.asked == (pytest.approx(0.7310586), 0.0)  # 1 / (1 + exp(-1)); B is unlikelier than all reported
    assert (server.seen[0][2]["logprobs"], server.seen[0][2]["max_tokens"]) == (True, 1)
    _, silent = serve(lambda t, n: said("A"))
    [none] = silent.complete(["p"], 1, choices=("A", "B"))
    assert (none.status, "reading.how=text" in none.error) == (Status.ERROR, True)
