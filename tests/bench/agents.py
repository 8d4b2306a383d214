"""Rollouts whose tool sleeps: wall time over that of the slowest rollout alone, and the cost of a turn.

    python tests/bench/agents.py                         200 rollouts, one call of 2 s each
    python tests/bench/agents.py --rollouts 64 --sleep 0 --calls 8

The model is a script in the same process, so that only environments, renderers and the event loop are measured. Prints
one JSON line: seconds of the whole and of the slowest rollout, their ratio, and CPU milliseconds of this process per
turn.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from actors.config.schema import ModelConfig
from actors.training.models import load_tokenizer, prepare_model
from rlcore import metrics as M
from rlcore.agents.config import EnvironmentConfig
from rlcore.agents.environments import EnvironmentPool
from rlcore.agents.rollouts import AgentRollout
from rlcore.agents.setup import describe, make_player
from rlcore.data.sources.config import DataConfig
from rlcore.interfaces import Sampling
from rlcore.types import Group, Prompt, Trajectory

ENVIRONMENT = '''
import time

class Sleeper:
    def __init__(self, seconds, calls):
        self.seconds, self.calls = seconds, calls

    def reset(self):
        self.left = self.calls
        self.begun = time.monotonic()

    def reply(self, text):
        time.sleep(self.seconds)
        self.left -= 1
        return "more\\n" if self.left else None

    def get_reward(self):
        return time.monotonic() - self.begun
'''


class Script:
    """A `TurnEngine` that answers each prompt with `go` at once."""

    def __init__(self, tokenizer) -> None:
        ids = tokenizer("go", add_special_tokens=False)["input_ids"]
        self.turn = np.array([*ids, tokenizer.eos_token_id], np.int32)

    def generating(self):
        return nullcontext()

    def metrics(self) -> M.Metrics:
        return {}

    def submit(self, prompt: Prompt, sampling: Sampling, engine: int = -1) -> Future[Group]:
        begin, future = np.array(prompt.token_ids, np.int32), Future()
        tokens = np.concatenate([begin, self.turn])
        mask = np.arange(tokens.size) >= begin.size
        arrays = mask, np.zeros(tokens.size, np.float32), np.where(mask, 0, -1).astype(np.int32)
        future.set_result(Group(prompt, [Trajectory(prompt.uid, "", tokens, *arrays, begin.size, "stop", "go")]))
        return future


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=200)
    parser.add_argument("--sleep", type=float, default=2.0, help="seconds of a call")
    parser.add_argument("--calls", type=int, default=1, help="of a rollout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "sleeper.py")
        file.write_text(ENVIRONMENT)
        tokenizer = load_tokenizer(prepare_model(ModelConfig(), Path(name), 0))
        config = EnvironmentConfig(
            fn=f"{file}:Sleeper", options={"seconds": options.sleep, "calls": options.calls}, max_turns=options.calls,
            concurrency=options.rollouts, step_timeout_s=60 + options.sleep,
        )  # fmt: skip
        player = make_player(config, describe(config, False), DataConfig(), tokenizer, 4096)
        rollouts = AgentRollout(Script(tokenizer), config, player, lambda: EnvironmentPool(config))
        prompts = [Prompt(f"p{i}", (5,), "?") for i in range(options.rollouts)]
        begun, cpu = time.monotonic(), time.process_time()
        groups = list(rollouts.generate(prompts, Sampling(1, 8)))
        first, first_cpu = time.monotonic() - begun, time.process_time() - cpu
        begun, cpu = time.monotonic(), time.process_time()
        groups = list(rollouts.generate(prompts, Sampling(1, 8)))
        seconds, spent = time.monotonic() - begun, time.process_time() - cpu
        rollouts.close()
    slowest = max(t.reward.score for g in groups for t in g.trajectories)
    turns = options.rollouts * options.calls
    result = {
        "bench": "agents", "rollouts": options.rollouts, "calls": options.calls, "sleep_s": options.sleep,
        "first_s": round(first, 3), "seconds": round(seconds, 3), "slowest_s": round(slowest, 3),
        "ratio": round(seconds / slowest, 3), "first_ratio": round(first / slowest, 3),
        "cpu_ms_per_turn": round(1e3 * spent / turns, 3), "first_cpu_s": round(first_cpu, 3),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
