"""Environments for tests; they run in processes of their own."""

import contextlib
import os
import signal
import sys
import time

import rlcore


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
