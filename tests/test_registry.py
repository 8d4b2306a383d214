import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import rlcore
from rlcore import registry
from rlcore.algorithms.config import AlgorithmConfig
from rlcore.algorithms.policy_gradient import PolicyGradientObjective, credit
from rlcore.loops import online
from rlcore.loops.config import LearningRateConfig
from rlcore.objective import Outputs, TensorBatch
from rlcore.registry import ADVANTAGES, POLICY_LOSSES, Registry, RegistryError, code_digest, load_file, load_function
from rlcore.rewards.registry import RewardError, load_fn
from tests.algorithms.cases import policy_logprobs, train_batch
from tests.algorithms.scenes import LIMIT, advantages, scene
from tests.loops.test_online import make_run

EXAMPLE = Path(__file__).parents[1] / "examples/custom_algorithm"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers, imports and puts on the path is forgotten after it."""
    for held in (ADVANTAGES, POLICY_LOSSES):
        monkeypatch.setattr(held, "_held", dict(held._held))
    monkeypatch.setattr("sys.path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("rlcore_file_"):
            del sys.modules[name]


def test_register_and_get() -> None:
    @rlcore.policy_loss("mine")
    def mine(inputs: object) -> None: ...

    @rlcore.advantage("mine")  # another registry: no clash
    def other(inputs: object) -> None: ...

    assert POLICY_LOSSES.get("mine") is mine
    assert ADVANTAGES.get("mine") is other
    assert POLICY_LOSSES.names()[-1] == "mine"


def test_duplicates_raise_and_name_both_places() -> None:
    rlcore.advantage("twice")(lambda x: x)
    message = r"advantage 'twice' is registered twice: by .*test_registry.py:\d+\) and by .*test_registry.py:\d+\)"
    with pytest.raises(RegistryError, match=message):
        rlcore.advantage("twice")(lambda x: x)
    with pytest.raises(RegistryError, match=r"by ppo_clip \(.*policy_gradient.py:\d+\) and by .*test_registry.py"):
        rlcore.policy_loss("ppo_clip")(lambda x: x)


@pytest.mark.parametrize("name", ["", None, print, "file.py:f"])
def test_a_name_is_needed(name: object) -> None:
    with pytest.raises(RegistryError, match="needs a name"):
        rlcore.policy_loss(name)  # type: ignore[arg-type]


def test_unknown_names_suggest_list_and_tell_the_way() -> None:
    with pytest.raises(RegistryError) as caught:
        POLICY_LOSSES.get("cipso")
    text = str(caught.value)
    for part in ("'cipso' (did you mean 'cispo'?)", "ppo_clip, gspo, cispo, reinforce, mdloo", "algorithm.loss=path"):
        assert part in text
    with pytest.raises(RegistryError, match="registered: none"):
        Registry("thing").get("x")


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_it_77.py").write_text("VALUE = 0.5\n")
    (tmp_path / "mine.py").write_text("import beside_it_77\nCOUNT = []\ndef f(x):\n    return beside_it_77.VALUE\n")
    monkeypatch.chdir(tmp_path)
    f = ADVANTAGES.get("mine.py:f")
    assert f(None) == 0.5
    assert POLICY_LOSSES.get(f"{tmp_path}/mine.py:f") is f
    assert load_fn("mine.py:f") is f  # rewards share the loader: one file, one import
    assert ADVANTAGES.get("rlcore.ops.advantages:gae") is rlcore.ops.advantages.gae
    assert registry.absolute("mine.py") == str(tmp_path / "mine.py")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (":f", "is no policy loss path"),
        ("missing.py:f", "policy loss file missing.py does not exist"),
        ("no_such_package.mod:f", "for the policy loss 'no_such_package.mod:f' raised ModuleNotFoundError"),
        ("rlcore.ops.kl:kl_estimat", r"no function 'kl_estimat' \(did you mean 'kl_estimate'\?\)"),
        ("rlcore.registry:MAX_MESSAGE", "is a int, not a function"),
    ],
)
def test_bad_paths(path: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        POLICY_LOSSES.get(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:", "SyntaxError"),
        ("1/0", "ZeroDivisionError"),
        ("raise SystemExit(1)", "SystemExit"),
        ("import rlcore\nrlcore.advantage('gae')(lambda x: x)", "'gae' is registered twice: .*advantages.py.*own.py"),
    ],
)
def test_files_that_do_not_import(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "own.py").write_text(source)
    before = {name for name in sys.modules if name.startswith("rlcore_file_own")}  # other tests' files of that name
    with pytest.raises(RegistryError, match=message):
        load_file(f"{tmp_path}/own.py")
    assert {name for name in sys.modules if name.startswith("rlcore_file_own")} == before


def test_files_have_to_be_python() -> None:
    with pytest.raises(RegistryError, match=r"notes.txt is no Python file"):
        load_file("notes.txt")


def test_errors_keep_their_kind() -> None:
    with pytest.raises(RewardError, match=r"reward file missing\.py does not exist"):
        load_function("missing.py:f", "reward", RewardError)
    assert issubclass(RewardError, RegistryError)


def test_the_decorators_do_not_import_torch() -> None:
    """A file may hold a reward beside a loss: verifier processes, whose memory is limited, import it too."""
    code = "import sys, rlcore; rlcore.advantage('x')(print); rlcore.policy_loss('x')(print); "
    code += "print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


# ---- the example


SETTINGS = {"files": [str(EXAMPLE / "my_algorithm.py")], "advantage": "ranks", "loss": "leash", "clip_high": 0.2}


def test_the_example_by_hand() -> None:
    found, batch = advantages([[3.0, 1.0, 1.0, None], [5.0]], **SETTINGS)
    rows = [float(row[mask][0]) for row, mask in zip(found, batch.padded("loss_mask"), strict=True)]
    assert rows == [1.0, -0.5, -0.5, 0.0, 0.0]
    config = AlgorithmConfig(**SETTINGS)
    mask = torch.tensor([[False, True]])
    goal = PolicyGradientObjective(config, 1.0, 1)
    tensors = TensorBatch(
        tokens=torch.ones(1, 2, dtype=torch.int64),
        lengths=torch.tensor([2]),
        loss_mask=mask,
        rollout_logprobs=torch.full((1, 2), -1.0),
        old_logprobs=torch.full((1, 2), -1.0),
        advantages=torch.full((1, 2), 2.0),
    )
    x = torch.tensor([[-torch.inf, -1.0]], requires_grad=True)
    loss, metrics = goal.loss(Outputs(x), tensors, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(-2.0)
    assert x.grad is not None
    assert x.grad.tolist() == [[0.0, -2.0]]
    assert metrics["actor/pull"].value() == 0.0
    away = goal.loss(Outputs(torch.tensor([[-torch.inf, -0.5]])), tensors, 1.0)[0]
    assert away.item() == pytest.approx(0.25 / 0.4 - 2 * 1.6487213)


def test_a_fresh_worker_loads_the_file_on_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The objective as it travels: pickled here, used in a process that knows neither name nor file."""
    groups, batch = scene([[1.0, 0.0, 0.5]])
    monkeypatch.chdir(EXAMPLE.parents[1])
    config = AlgorithmConfig(**SETTINGS | {"files": ["examples/custom_algorithm/my_algorithm.py"]})
    out, _ = credit(groups, batch, config, 0.0, LIMIT)
    goal = PolicyGradientObjective(config, 1.0, LIMIT)
    logprobs = -torch.ones(batch.padded("tokens").shape)
    expected = goal.loss(Outputs(logprobs), TensorBatch.from_train_batch(out), 3.0)[0].item()
    (tmp_path / "job").write_bytes(pickle.dumps((goal, out, logprobs)))
    code = """
import pickle, sys
from rlcore.objective import Outputs, TensorBatch
goal, out, logprobs = pickle.load(open(sys.argv[1], "rb"))
print(repr(goal.loss(Outputs(logprobs), TensorBatch.from_train_batch(out), 3.0)[0].item()))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "job")]
    env = os.environ | {"PYTHONPATH": str(EXAMPLE.parents[1])}
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=env)
    assert float(found.stdout) == pytest.approx(expected)


def test_the_example_learns_in_the_loop(tmp_path: Path) -> None:
    # a fourth of that test's rate: the pull's curvature 1 / clip_high makes plain gradient descent unstable there
    run = make_run(tmp_path, steps=80, trainer={"learning_rate": LearningRateConfig(peak=5.0)})
    config = AlgorithmConfig(**SETTINGS)
    state = online.train(dataclasses.replace(run, algorithm=config))
    rows = run.world.tracker.rows
    assert rows[0]["eval/heldout/mean@1"] <= 0.3
    assert state.accuracy is not None
    assert state.accuracy >= 0.9
    assert all(row["actor/pull"] >= 0 for step, row in rows.items() if step)
    assert all(-1 <= row["critic/advantages/min"] <= row["critic/advantages/max"] <= 1 for s, row in rows.items() if s)


def test_any_split_of_the_example_gives_the_same() -> None:
    goal = PolicyGradientObjective(AlgorithmConfig(**SETTINGS), 1.0, LIMIT)
    batch, logprobs = train_batch(), policy_logprobs()
    totals = []
    for parts in ([[0, 1, 2, 3, 4]], [[4], [0, 2], [3, 1]]):
        outs = []
        for rows in parts:
            tensors = TensorBatch.from_train_batch(batch.select(rows))
            outputs = Outputs(logprobs[rows, : tensors.tokens.shape[1]])
            outs.append(goal.loss(outputs, tensors, goal.denominator(batch))[0])
        totals.append(sum(x.item() for x in outs))
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


def test_the_command_of_the_example_names_what_is_in_its_file() -> None:
    """Every override of run.sh is a key of the config, and what it names is found."""
    script = (EXAMPLE / "run.sh").read_text()
    subprocess.run(["bash", "-n", str(EXAMPLE / "run.sh")], check=True)
    given = dict(word.strip('"').split("=", 1) for word in script.split() if word.strip('"').startswith("algorithm."))
    assert given.keys() == {"algorithm.files", "algorithm.advantage", "algorithm.loss", "algorithm.clip_high"}
    file = EXAMPLE.parents[1] / given["algorithm.files"].strip("[]")
    load_file(str(file))
    assert ADVANTAGES.get(given["algorithm.advantage"]).__module__ == POLICY_LOSSES.get("leash").__module__
    assert given["algorithm.loss"] == "leash"


def test_the_digest_of_code_sees_what_it_says(tmp_path: Path) -> None:
    file, digests = tmp_path / "a.py", []
    for text in ("x = 1\n", "x = 1  # one\n\n", "x = 2\n"):
        file.write_text(text)
        digests.append(code_digest(str(file)))
    assert digests[0] == digests[1] != digests[2]
    file.write_text("x = (\n")
    assert code_digest(str(file)) == code_digest(str(tmp_path / "none.py")) == code_digest("no.such.module") == ""
    assert code_digest("rlcore.types")
