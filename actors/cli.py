"""The console script `rlcore`."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlcore.problems import UserError, suggest

USAGE = """rlcore: online RL training for language models on Ray, vLLM and DeepSpeed

  rlcore train [overrides]    train; --cfg job prints the config, --multirun sweeps, +experiment=NAME picks a recipe
  rlcore plan [overrides]     check the config; placement, batch arithmetic and memory; starts nothing
  rlcore eval [overrides]     accuracy of a model (model.path=...) or of a run's newest checkpoint on the held-out set
  rlcore rounds [overrides]   several rounds of sampling, filtering, SFT, preferences and RL on the same live actors
  rlcore rounds status [...]  the tree of its stages, and what each round gained
  rlcore report RUN_DIR       summary and learning curve of a run
  rlcore rewards list         the rewards a config can name
  rlcore rewards score FILE.jsonl --reward NAME --out OUT.jsonl
                              judge stored completions by one of them
  rlcore doctor               what this machine has, what is missing, how to mend it

Overrides are Hydra's: key=value, group=option. Without any, the quickstart job runs.
"""


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        sys.exit(0 if arguments else 2)
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(f"rlcore: no command {name!r}{suggest(name, COMMANDS)}\n\n{USAGE}", file=sys.stderr)
        sys.exit(2)
    if name == "doctor":  # must work where packages are missing, which `guarded` imports
        sys.exit(doctor(rest))
    sys.exit(guarded(lambda: COMMANDS[name](rest)))


def guarded(action: Callable[[], int]) -> int:
    """Runs a command. What a user can mend is shown without a traceback; the rest with one."""
    from rlcore.loops.stop import Interrupted

    try:
        return action()
    except Interrupted as stop:
        print(f"stopped by {stop}; the same command goes on from the checkpoint", file=sys.stderr)
        return {"SIGINT": 130, "SIGTERM": 143}.get(str(stop), 1)
    except KeyboardInterrupt:
        print("left at once; the same command goes on from the newest checkpoint", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"\nrlcore: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        print("\nrlcore: an error that was not foreseen, see the traceback above", file=sys.stderr)
        return 1


def train(arguments: list[str]) -> int:
    from actors.run import train

    return _hydra("rlcore train", arguments, train)


def evaluate(arguments: list[str]) -> int:
    from actors.run import evaluate

    return _hydra("rlcore eval", arguments, evaluate)


def plan(arguments: list[str]) -> int:
    from actors import validate
    from actors.plan import plan

    print(plan(validate.compose(arguments)))
    return 0


def rounds(arguments: list[str]) -> int:
    from actors import rounds, validate

    if arguments[:1] == ["status"]:
        return rounds.status(rounds.status_config(arguments[1:]))
    return rounds.rounds(validate.compose(arguments), arguments)


def report(arguments: list[str]) -> int:
    from rlcore.report import render, write_report

    if len(arguments) != 1:
        print("usage: rlcore report RUN_DIR", file=sys.stderr)
        return 2
    print(render(write_report(Path(arguments[0]))))
    return 0


def rewards(arguments: list[str]) -> int:
    from actors.rewards_cli import main

    return main(arguments)


def doctor(arguments: list[str]) -> int:
    from actors import doctor

    checks = doctor.doctor()
    print(doctor.render(checks))
    return int(any(check.status == "FAIL" for check in checks))


def _hydra(name: str, arguments: list[str], action: Callable[..., int]) -> int:
    """Hydra's own application around `action(config)`; plain runs are composed by us, for errors that name the cure."""
    from actors import validate

    if not any(a.startswith("-") for a in arguments):
        return action(validate.compose(arguments))
    import hydra

    validate.register()
    outcome: list[int] = []

    def job(raw: Any) -> None:
        code = guarded(lambda: action(validate.to_config(raw)))
        outcome.append(code)
        if code in (130, 143):
            raise SystemExit(code)  # passes through Hydra, which would start the next job of a sweep

    sys.argv = [name, *arguments]
    hydra.main(version_base=None, config_path=validate.CONF, config_name="config")(job)()
    return max(outcome, default=0)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "plan": plan,
    "eval": evaluate,
    "rounds": rounds,
    "report": report,
    "rewards": rewards,
    "doctor": doctor,
}

if __name__ == "__main__":
    main()
