"""The console script `rlcore`: reads the command line, prints, and turns errors into exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.commands.usage import COMMANDS_HELP, USAGE
from rlcore.problems import UserError, suggest

HELP = ("-h", "--help", "help")


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in HELP:
        known = arguments[1:] and arguments[1] in COMMANDS_HELP
        print(COMMANDS_HELP[arguments[1]] if known else USAGE)
        sys.exit(0 if arguments else 2)
    name, rest = arguments[0], arguments[1:]
    if "--version" in arguments[:2]:
        print(f"rlcore {_version()}")
        sys.exit(0)
    if name not in COMMANDS:
        print(f"rlcore: no command {name!r}{suggest(name, COMMANDS)}\n\n{USAGE}", file=sys.stderr)
        sys.exit(2)
    own_help = name == "rewards" and rest[:1] and rest[0] in ("list", "score")  # argparse prints their help
    if any(argument in ("-h", "--help") for argument in rest) and not own_help:
        print(COMMANDS_HELP[name])
        sys.exit(0)
    if name == "doctor":  # must work without packages that `guarded` imports
        sys.exit(doctor(rest))
    sys.exit(guarded(lambda: COMMANDS[name](rest)))


def _version() -> str:
    import rlcore

    return str(rlcore.__version__)


def guarded(action: Callable[[], int]) -> int:
    """Runs a command and returns its exit code. User errors are shown without a traceback, others with one."""
    from rlcore.loops.stop import Interrupted

    try:
        return action()
    except Interrupted as stop:
        print(f"stopped by {stop}; rerun the same command to resume from the checkpoint", file=sys.stderr)
        return {"SIGINT": 130, "SIGTERM": 143}.get(str(stop), 1)
    except KeyboardInterrupt:
        print("stopped immediately; rerun the same command to resume from the newest checkpoint", file=sys.stderr)
        return 130
    except UserError as error:
        notes = "".join(f"\n({note})" for note in getattr(error, "__notes__", ()))
        print(f"\nrlcore: {type(error).__name__}: {error}{notes}", file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        print("\nrlcore: unexpected error, see the traceback above", file=sys.stderr)
        return 1


def train(arguments: list[str]) -> int:
    return _hydra("rlcore train", arguments, _train)


def _train(config: Any) -> int:
    from actors.commands.train import train
    from rlcore.report import render, write_report

    result = train(config, handle_signals=True)
    print(render(write_report(result.run_dir)))
    if result.already_finished:
        print(f"\n{result.run_dir} is complete. To train longer set trainer.steps=..., for another run run_dir=...")
    else:
        files = {"model": result.model, "curve": result.run_dir / "curve.png", "metrics": result.metrics_file}
        print("\n" + "\n".join(f"{name:8} {path}" for name, path in files.items()))
    return 0


def evaluate(arguments: list[str]) -> int:
    from actors.commands.train import eval_overrides

    return _hydra("rlcore eval", eval_overrides(arguments), _evaluate)


def _evaluate(config: Any) -> int:
    from actors.commands.train import evaluate

    result = evaluate(config, handle_signals=True)
    print(f"model   {result.model}\ndata    {result.data}\n")
    for name, value in result.metrics.items():
        print(f"{name:32} {value:.4f}")
    return 0


def plan(arguments: list[str]) -> int:
    from actors.commands.plan import plan

    made = plan(_compose(arguments))
    print(made.text)
    return 0 if made.ok else 1


def rounds(arguments: list[str]) -> int:
    from actors.commands import rounds
    from actors.config.config_file import expand

    if arguments[:1] == ["status"]:
        return rounds.status(rounds.status_config(expand(arguments[1:])))
    return rounds.rounds(_compose(arguments), expand(arguments))


def report(arguments: list[str]) -> int:
    from rlcore.report import render, write_report

    if len(arguments) != 1:
        print("usage: rlcore report RUN_DIR", file=sys.stderr)
        return 2
    print(render(write_report(Path(arguments[0]))))
    return 0


def rewards(arguments: list[str]) -> int:
    from actors.commands.rewards import main

    return main(arguments)


def doctor(arguments: list[str]) -> int:
    from actors.commands import doctor

    checks = doctor.doctor()
    print(doctor.render(checks))
    return int(any(check.status == "FAIL" for check in checks))


def keys(arguments: list[str]) -> int:
    from actors.config import keys
    from actors.config.schema import Config

    found = list(keys.keys(Config()))
    for prefix in arguments:
        shown = [key for key in found if f"{key.name}.".startswith(f"{prefix}.")] or [
            key for key in found if prefix in key.name.split(".")
        ]
        if not shown:
            print(f"no key {prefix!r}{suggest(prefix, [key.name for key in found])}", file=sys.stderr)
            return 1
        print(keys.render(shown))
    if not arguments:
        print(keys.render(found))
    return 0


def init(arguments: list[str]) -> int:
    from actors.config.config_file import write_starter

    if len(arguments) > 1:
        print("usage: rlcore init [FILE.yaml]", file=sys.stderr)
        return 2
    file = Path(arguments[0] if arguments else "rlcore.yaml")
    write_starter(file)
    print(f"{file} is written: edit it, then run `rlcore plan --config {file}`")
    return 0


def _compose(arguments: list[str]) -> Any:
    from actors.config import compose as validate
    from actors.config import config_file

    return validate.compose(config_file.expand(arguments))


HYDRA_FLAGS = (
    "--cfg", "-c", "--resolve", "--package", "-p", "--multirun", "-m", "--info", "-i", "--hydra-help", "--run", "-r",
)  # fmt: skip


def _hydra(name: str, arguments: list[str], action: Callable[[Any], int]) -> int:
    """Wraps `action(config)` as a Hydra application if Hydra's flags are given; other runs are composed directly, with
    clearer errors.
    """
    from actors.config import compose as validate
    from actors.config import config_file

    arguments = config_file.expand(arguments)
    if not any(argument.partition("=")[0] in HYDRA_FLAGS for argument in arguments):
        return action(validate.compose(arguments))
    import hydra

    validate.register()
    outcome: list[int] = []

    def job(raw: Any) -> None:
        code = guarded(lambda: action(validate.to_config(raw)))
        outcome.append(code)
        if code in (130, 143):
            raise SystemExit(code)  # not caught by Hydra, which would start the next job of a sweep

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
    "init": init,
    "keys": keys,
}

if __name__ == "__main__":
    main()
