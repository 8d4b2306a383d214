"""Processes and jobs for tests of the sandbox."""

from pathlib import Path

import pytest

from rlcore.rewards.sandbox import Job
from tests.rewards.corpora.code_confined import Unconfined, confined

STDIN = {"type": "stdin", "inputs": ["1"], "outputs": ["2"]}
ADD = Job("print(int(input()) + 1)", inputs=["1", "41"])


def hostile(tier, programs, rounds=1, timeout_s=280.0):
    try:
        return confined({"tier": tier, "programs": programs, "rounds": rounds}, timeout_s)
    except Unconfined as reason:
        pytest.skip(f"no namespaces to confine hostile programs in: {reason}")
    except RuntimeError as error:
        if "SandboxError" in str(error):
            pytest.skip(str(error).strip().splitlines()[-1][:300])
        raise


def children(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(p) for p in (task / "children").read_text().split()]
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def outputs(outcomes):
    return [o.output.strip() for o in outcomes]
