"""Environments for tests; they run in processes of their own."""

import contextlib
import json
import os
import signal
import sys
import time

import rlcore
from rlcore.agents.client import ModelError


@rlcore.environment("calculator")
class Calculator:
    """As one writes it for TRL: it knows nothing of rlcore."""

    def reset(self, **kwargs) -> str | None:
        self.row, self.calls = kwargs, 0
        return kwargs.get("hint")

    def add(self, a: float, b: float) -> str:
        """Adds two numbers.

        Args:
            a: the first number.
            b: the second number.
        """
        self.calls += 1
        return f"{a + b:g}"

    def row_of(self, key: str) -> str:
        """A column of the row.

        Args:
            key: its name.
        """
        return self.row.get(key)

    async def slow(self, seconds: float) -> str:
        """Sleeps.

        Args:
            seconds: how long.
        """
        import asyncio

        await asyncio.sleep(seconds)
        return "awake"

    def behave(self, how: str) -> str:
        """Misbehaves.

        Args:
            how: in which way.
        """
        match how:
            case "hang":
                time.sleep(600)
            case "raise":
                raise ValueError("no such luck")
            case "print":
                sys.stdout.write("x" * 10_000_000 + "the end\n")
                sys.stdout.flush()
            case "none":
                return None
            case "dict":
                return {"a": [1, 2]}
            case "long":
                return "y" * 100_000
            case "fork":
                if os.fork() == 0:
                    return "from the child"
            case "fork_hang":
                if os.fork() == 0:
                    time.sleep(600)
            case "exit":
                os._exit(3)
            case "sys_exit":
                sys.exit(4)
            case "segv":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "memory":
                self.held = bytearray(4 << 30)
            case "close_fds":
                os.closerange(3, 256)
            case "garbage":
                for fd in range(3, 32):
                    with contextlib.suppress(OSError):
                        os.write(fd, b"\0\0\0\2{}")
        return "fine"

    def get_reward(self) -> float:
        return float(self.calls)


class Guess:
    """Many turns in text mode."""

    def reset(self, number: int = 7) -> str:
        self.number, self.tries = number, 0
        return "\n"

    def reply(self, text: str) -> str | None:
        self.tries += 1
        try:
            guess = int(text)
        except ValueError:
            return "?\n"
        return None if guess == self.number else "higher\n" if guess < self.number else "lower\n"


class Broken:
    def reset(self, **row) -> None:
        raise RuntimeError("no board")

    def look(self) -> str:
        """Looks."""
        return ""


class Sleeper:
    def reset(self, **row) -> None:
        pass

    def nap(self) -> str:
        """Sleeps for two seconds."""
        time.sleep(2)
        return "awake"


ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    },
}


@rlcore.rollout("adder")
async def adder(task: rlcore.Task, model: rlcore.Model) -> float:
    """An agent's own loop with rlcore's client."""
    messages, calls = task.messages, 0
    while True:
        reply = await model.chat(messages, tools=[ADD])
        messages.append(reply)
        if not reply.get("tool_calls"):
            return float(task.reference in reply["content"]) + calls
        for call in reply["tool_calls"]:
            calls += 1
            arguments = json.loads(call["function"]["arguments"])
            result = str(arguments["a"] + arguments["b"])
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})


def openai_agent(task: rlcore.Task, model: rlcore.Model) -> rlcore.RewardResult:
    """Somebody else's agent: the client of OpenAI, streaming, without a word of rlcore in its loop."""
    from openai import OpenAI

    client = OpenAI(base_url=model.base_url, api_key=model.api_key)
    messages, text = list(task.messages), ""
    for _ in range(4):
        stream = client.chat.completions.create(model="policy", messages=messages, tools=[ADD], stream=True)
        text, calls = "", {}
        for chunk in stream:
            delta = chunk.choices[0].delta
            text += delta.content or ""
            for part in delta.tool_calls or ():
                call = calls.setdefault(part.index, {"id": part.id, "type": "function", "function": {"arguments": ""}})
                call["function"]["name"] = part.function.name
                call["function"]["arguments"] += part.function.arguments
        more = {"tool_calls": [*calls.values()]} if calls else {}
        messages.append({"role": "assistant", "content": text or None, **more})
        if not calls:
            break
        for call in calls.values():
            arguments = json.loads(call["function"]["arguments"])
            result = f"{arguments['a'] + arguments['b']}"
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    return rlcore.RewardResult(1.0, parts={"right": float(task.reference in text)})


async def idle(task: rlcore.Task, model: rlcore.Model) -> None:
    """Never calls the model."""


async def talker(task: rlcore.Task, model: rlcore.Model) -> None:
    """Talks until it is told to stop; the reward is the config's."""
    messages = task.messages
    while True:
        try:
            messages.append(await model.chat(messages))
        except ModelError as error:
            if error.code in ("max_turns", "context_length_exceeded"):
                return
            raise
        messages.append({"role": "user", "content": "Go on. " * 20})
