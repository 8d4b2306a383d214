"""Checks values and combinations of a config. Pure, except that it checks if paths exist."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from actors.config.rules_algorithm import algorithm_problems
from actors.config.rules_launch import launch_problems
from actors.config.rules_model import model_problems
from actors.config.schema import Config, Device, DType, KvAfterUpdate, Offload
from actors.placement.placement import ROLES, PlacementError, together, units
from rlcore.data.sources.config import BUILT_IN
from rlcore.data.sources.files import DataError, find
from rlcore.problems import Problem, setting_problems
from rlcore.registry import shadowing
from rlcore.rewards.judge.config import JudgeKind
from rlcore.rewards.options import option_problems
from rlcore.rewards.registry import names as reward_names
from rlcore.rewards.scorers import JUDGE, RESERVED, REWARD_MODEL

CHECKSUMS = "model_loader/weight_checksum.py"  # in vLLM since 0.32
HERE = "relative paths start at the working directory"


def problems(config: Config) -> list[Problem]:
    """All problems, errors first; warnings are marked."""
    rules = (
        _values, _batch, _shadowed, algorithm_problems, _sampling, _model, _folder, _data, _rewards, _roles, _gpus,
        _sync, _engine, launch_problems,
    )  # fmt: skip
    found: dict[tuple[str, str], Problem] = {}
    for rule in rules:
        for problem in rule(config):
            found.setdefault((problem.key, problem.text), problem)
    return sorted(found.values(), key=lambda problem: problem.warning)


def _values(c: Config) -> Iterator[Problem]:
    yield from setting_problems(c)
    for role in ("policy", "rollout", "verifier"):
        if (count := getattr(c.cluster.roles, role).num_workers) == 0:
            text, cure = "out of range", "must be 1 or more: every run needs this role"
            yield Problem(f"cluster.roles.{role}.num_workers", count, text, cure)
    if not re.fullmatch(r"[\w.+-]+", c.name):
        yield Problem("name", c.name, "not usable as a folder name", "letters, digits and . _ + - only")


def _batch(c: Config) -> Iterator[Problem]:
    t = c.trainer
    samples, updates = t.prompts_per_step * t.samples_per_prompt, max(t.updates_per_step, 1)
    if updates > samples > 0:
        cure = f"lower it to at most prompts_per_step x samples_per_prompt = {samples}"
        yield Problem("trainer.updates_per_step", updates, f"more updates than samples ({samples})", cure)
    elif samples % updates:
        near = [n for n in range(1, min(samples, 4 * updates) + 1) if samples % n == 0]
        cure = f"choose a divisor, such as {min(near, key=lambda n: abs(n - updates))}"
        text = f"does not divide the {t.prompts_per_step} x {t.samples_per_prompt} = {samples} samples of a step"
        yield Problem("trainer.updates_per_step", updates, text, cure)
    ranks = c.cluster.roles.policy.num_workers
    if 0 < samples // updates < ranks:
        text = f"{samples // updates} samples per update for {ranks} policy workers: some have nothing to train"
        yield Problem("trainer.updates_per_step", updates, text, "larger steps, fewer updates or fewer workers", True)
    longest = c.longest
    if t.max_tokens_per_micro_batch < longest:
        text = f"smaller than one sequence ({_longest(c)})"
        cure = f"at least {longest} to respect the limit; longer sequences get a separate micro-batch"
        yield Problem("trainer.max_tokens_per_micro_batch", t.max_tokens_per_micro_batch, text, cure, True)
    if t.eval.temperature == 0 and t.eval.num_samples > 1:
        text, cure = "greedy samples of one prompt are all equal", "set trainer.eval.temperature above 0, or 1 sample"
        yield Problem("trainer.eval.num_samples", t.eval.num_samples, text, cure, True)


def _sampling(c: Config) -> Iterator[Problem]:
    r, needed = c.rollout, c.longest
    biased = "excludes tokens: the sampler's log-probs are renormalised and every importance ratio is biased"
    if r.top_p != 1:
        yield Problem("rollout.top_p", r.top_p, biased, "set it to 1")
    if r.top_k != 0:
        yield Problem("rollout.top_k", r.top_k, biased, "set it to 0")
    if r.max_model_len is not None and r.max_model_len < needed:
        text = f"too small for {_longest(c)}"
        yield Problem("rollout.max_model_len", r.max_model_len, text, f"{needed} or more, or null")
    if c.model.path is None and c.model.tiny.max_positions < needed:
        text = f"too small for {_longest(c)}"
        yield Problem("model.tiny.max_positions", c.model.tiny.max_positions, text, f"{needed} or more")
    yield from _tiny_heads(c)
    if "" in r.stop:
        yield Problem("rollout.stop", r.stop, "an empty stop string stops immediately", "remove it")


def _longest(c: Config) -> str:
    if c.environment.fn is None:
        return f"{c.data.max_prompt_tokens} prompt + {c.rollout.max_new_tokens} new tokens"
    return f"a rollout of {c.longest} tokens (environment.max_tokens)"


def _tiny_heads(c: Config) -> Iterator[Problem]:
    tiny, sizes = c.model.tiny, (32, 64, 96, 128)  # small head sizes with a kernel in vLLM's CPU attention
    if c.model.path is None and tiny.num_heads > 0 and tiny.hidden_size / tiny.num_heads not in sizes:
        text = f"hidden_size {tiny.hidden_size} over {tiny.num_heads} heads: vLLM has no kernel for this head width"
        yield Problem("model.tiny.num_heads", tiny.num_heads, text, f"choose it so that a head has one of {sizes}")


def _model(c: Config) -> Iterator[Problem]:
    m = c.model
    if m.float32_head and m.dtype is DType.float32:
        text = "model.dtype=float32 computes all layers in float32"
        yield Problem("model.float32_head", True, text, "leave it out, or set model.dtype=bfloat16", True)
    if m.path is None:
        if m.gguf_file:
            yield Problem("model.gguf_file", m.gguf_file, "a file without its folder", "set model.path to the folder")
        if m.tiny.num_heads > 0 and m.tiny.hidden_size % m.tiny.num_heads:
            cure = f"a multiple of model.tiny.num_heads={m.tiny.num_heads}"
            yield Problem("model.tiny.hidden_size", m.tiny.hidden_size, "heads would have unequal widths", cure)
        return
    folder = Path(m.path).expanduser()
    local = m.path.startswith((".", "/", "~")) or m.path.count("/") != 1
    if local and not folder.is_dir() and "/" in m.path:
        yield Problem("model.path", m.path, "no such folder", "a Hugging Face folder, or a hub id such as org/name")
    elif m.gguf_file and folder.is_dir() and not (folder / m.gguf_file).is_file():
        yield Problem("model.gguf_file", m.gguf_file, f"not in {m.path}", "name a file of that folder")
    if m.lora.rank and m.dtype is DType.bfloat16:
        text = "the engines get merged weights, and bfloat16 rounding removes most of the first small steps"
        cure = "set model.dtype=float32, or a learning rate for adapters (1e-4)"
        yield Problem("model.lora.rank", m.lora.rank, text, cure, True)


def _folder(c: Config) -> Iterator[Problem]:
    yield from model_problems(c, device_of(c))


def _data(c: Config) -> Iterator[Problem]:
    d = c.data
    if d.source in BUILT_IN:
        if d.chat_template and c.model.path is None:
            text, cure = "the tiny model has no chat template", "set it to false, or model=hf model.path=..."
            yield Problem("data.chat_template", d.chat_template, text, cure)
        if d.train is not None:
            text, cure = f"data.source={d.source.value} generates its rows", "set data=jsonl or data=parquet"
            yield Problem("data.train", d.train, text, cure)
    elif d.train is None:
        yield Problem("data.train", None, f"data.source={d.source.value} needs a path", "set data.train=path/to/data")
    sets = {f"data.eval.{name}": path for name, path in d.eval.items()} if isinstance(d.eval, dict) else {}
    for key, path in {"data.train": d.train, **(sets or {"data.eval": d.eval})}.items():
        if path is not None and d.source not in BUILT_IN:
            for_eval = key != "data.train"
            try:
                find(d.source, path, key, d.eval_split if for_eval else d.train_split, for_eval)
            except DataError as error:
                yield Problem(key, path, str(error).removeprefix(f"{key}={path}: "), HERE)
    if "{prompt}" not in d.prompt_template:
        text = "every prompt would be the same"
        yield Problem("data.prompt_template", d.prompt_template, text, "it must hold {prompt}")


def _rewards(c: Config) -> Iterator[Problem]:
    if c.reward.fn is not None:
        yield from _function("reward.fn", c.reward.fn)
        return
    if not c.reward.terms:
        cure = "set reward=math, or reward.fn=path/to/file.py:function"
        yield Problem("reward.terms", [], "no reward is set", cure)
    yield from _scorers(c)
    for i, term in enumerate(c.reward.terms):
        if term.fn is None and term.name in RESERVED:
            continue
        if term.fn is not None:
            yield from _function(f"reward.terms.{i}.fn", term.fn)
        elif term.name not in (known := reward_names()):
            cure = f"one of: {', '.join(known)}; or give its function by fn=path/to/file.py:function"
            yield Problem(f"reward.terms.{i}.name", term.name, "no such reward", cure)
        elif wrong := list(option_problems(term.name, term.options, f"reward.terms.{i}.options")):
            yield from wrong
        elif term.name == "code" and c.reward.timeout_s <= (limit := float(term.options.get("deadline_s", 30.0))):
            text = f"the verifier process is killed before the {limit:g} s that the tests of a program may take in all"
            yield Problem("reward.timeout_s", c.reward.timeout_s, text, f"above {limit:g}, as reward=code has it")


def _shadowed(c: Config) -> Iterator[Problem]:
    """Checked before the rules that import these files."""
    files = {f"algorithm.files.{i}": file for i, file in enumerate(c.algorithm.files)}
    functions = {"reward.fn": c.reward.fn} | {f"reward.terms.{i}.fn": term.fn for i, term in enumerate(c.reward.terms)}
    files |= {key: path.rpartition(":")[0] for key, path in functions.items() if path}
    for key, file in files.items():
        if file.endswith(".py") and (text := shadowing(file)):
            yield Problem(key, file, text, "rename or move them", True)


def _scorers(c: Config) -> Iterator[Problem]:
    """Checks of the judge and the reward model against the rewards."""
    judge, roles = c.reward.judge, c.cluster.roles
    asked = {t.name for t in c.reward.terms if t.fn is None} | {c.reward.fallback.value}
    if JUDGE in asked and judge.kind is JudgeKind.none:
        yield Problem("reward.judge.kind", judge.kind, "the rewards use a judge", "set it to engine or endpoint")
    key = "cluster.roles.judge.num_workers"
    if judge.kind is JudgeKind.engine and roles.judge.num_workers < 1:
        yield Problem(key, 0, "reward.judge.kind=engine needs the role judge", "set it to 1")
    elif judge.kind is not JudgeKind.engine and roles.judge.num_workers > 0:
        yield Problem(key, roles.judge.num_workers, "no engine is used as judge", "set reward.judge.kind=engine, or 0")
    if judge.kind is JudgeKind.engine and together(roles, "judge", "rollout") and device_of(c) == "cuda":
        key, value, own = "reward.judge.engine.gpu_memory_utilization", judge.engine.gpu_memory_utilization, "set both"
        engine, text = c.rollout.gpu_memory_utilization, "the judge never sleeps, and with"
        if engine is None:
            text = f"{text} rollout.gpu_memory_utilization=null their shares of the GPU are unknown"
            yield Problem(key, value, text, f"{own} so that the sum is below 1, or give the judge separate GPUs")
        elif value + engine > 1:
            text = f"{text} rollout.gpu_memory_utilization that is {value + engine:g} of one GPU"
            yield Problem(key, value, text, "make the sum at most 1, or give the judge separate GPUs")
    yield from _reward_model(c, REWARD_MODEL in asked)


def _reward_model(c: Config, asked: bool) -> Iterator[Problem]:
    count, path, stages = c.cluster.roles.reward.num_workers, c.reward.model, bool(c.rounds.stages)
    if asked and count < 1:
        text = "the rewards ask a reward model"
        yield Problem("cluster.roles.reward.num_workers", 0, text, "set it to 1")
    if asked and path is None and not stages:
        text, cure = "the rewards use a reward model, but none is set", "a model folder or hub id"
        yield Problem("reward.model", None, text, cure)
    if path is not None and path.startswith((".", "/", "~")) and not Path(path).expanduser().is_dir():
        yield Problem("reward.model", path, "no such folder", HERE)
    if count > 0 and not asked and not stages:
        text, cure = "a reward model is started, but no reward uses it", "add {name: reward_model} to reward.terms"
        yield Problem("cluster.roles.reward.num_workers", count, text, cure, True)


def _function(key: str, path: str) -> Iterator[Problem]:
    """Checks a function path without running the file; import errors appear when the verifiers start."""
    target, _, name = path.rpartition(":")
    form = "write path/to/file.py:function or package.module:function"
    if not target or not name:
        yield Problem(key, path, "not a function's path", form)
        return
    if not target.endswith(".py"):
        try:
            missing = importlib.util.find_spec(target) is None
        except (ImportError, ValueError):
            missing = True
        if missing:
            yield Problem(key, path, f"no module {target}", form)
        return
    file = Path(target).expanduser()
    if not file.is_file():
        yield Problem(key, path, "no such file", HERE)
        return
    try:
        tree = ast.parse(file.read_text())
    except (SyntaxError, UnicodeDecodeError) as error:
        yield Problem(key, path, f"not Python: {error}", "fix the file")
        return
    nodes = [n for top in tree.body for n in ast.walk(top)]
    made = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    other = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    other |= {a.asname or a.name for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names}
    if name not in made | other:
        yield Problem(key, path, f"the file has no function {name}", f"it has: {', '.join(sorted(made)) or 'none'}")


def _roles(c: Config) -> Iterator[Problem]:
    roles = {name: getattr(c.cluster.roles, name) for name in ROLES}
    used = {name for name, role in roles.items() if role.num_workers > 0}
    before = False
    for name, role in roles.items():
        key, host = f"cluster.roles.{name}.colocate_with", role.colocate_with
        if host is None:
            continue
        text = None
        if host not in roles:
            text = "no such role"
        elif host == name:
            text = "a role cannot be colocated with itself"
        elif name in used and host not in used:
            text = "that role has no workers"
        elif name in used and roles[host].colocate_with is not None:
            text = f"that role is itself colocated with {roles[host].colocate_with}"
        if text:
            before = True
            free = [n for n in roles if n in used and n != name and not roles[n].colocate_with]
            yield Problem(key, host, text, f"null, or one of: {', '.join(free)}")
    if not before:
        try:
            units(c.cluster.roles)
        except PlacementError as error:
            yield Problem("cluster.roles", "...", str(error), "see the layouts in conf/cluster")


def _gpus(c: Config) -> Iterator[Problem]:
    roles, device = c.cluster.roles, c.cluster.device
    compute = {n: getattr(roles, n) for n in ("policy", "rollout", "reference", "critic", "reward", "judge")}
    compute = {name: role for name, role in compute.items() if role.num_workers > 0}
    on_gpu = [name for name, role in compute.items() if role.gpus_per_worker > 0]
    for name, role in compute.items():
        key, gpus = f"cluster.roles.{name}.gpus_per_worker", role.gpus_per_worker
        if device is Device.cpu and gpus > 0:
            yield Problem(key, gpus, "cluster.device=cpu", "set it to 0, or cluster.device=cuda")
        elif gpus == 0 and (device is Device.cuda or (device is Device.auto and on_gpu)):
            why = "cluster.device=cuda" if device is Device.cuda else f"{', '.join(on_gpu)} on GPUs"
            yield Problem(key, gpus, f"{why} and this role without", "all models on GPUs, or none")
        if name not in ("rollout", "judge") and gpus > 1:
            text = "a training or scoring worker uses one GPU; the others would idle"
            yield Problem(key, gpus, text, f"set it to 1 and num_workers={int(role.num_workers * gpus)}")
        if gpus > 1 and gpus != int(gpus):
            yield Problem(key, gpus, "shares of several GPUs must be whole numbers", f"{int(gpus)} or {int(gpus) + 1}")
    rollout, parallel = roles.rollout.gpus_per_worker, c.rollout.tensor_parallel_size
    if rollout > 0 and parallel != max(1, int(rollout)):
        text = f"an engine over {parallel} GPUs with cluster.roles.rollout.gpus_per_worker={rollout:g}"
        yield Problem("rollout.tensor_parallel_size", parallel, text, "make the two equal")
    if on_gpu and c.rollout.enforce_eager:
        text, cure = "compiled graphs are disabled on a GPU: generation is slow", "set rollout=gpu"
        yield Problem("rollout.enforce_eager", True, text, cure, True)


def shares_gpu(c: Config) -> bool:
    """True if policy and rollout share bundles."""
    return together(c.cluster.roles, "policy", "rollout")


def device_of(c: Config) -> str:
    if c.cluster.device is not Device.auto:
        return str(c.cluster.device.value)
    return "cuda" if c.cluster.roles.policy.gpus_per_worker > 0 else "cpu"


def _sync(c: Config) -> Iterator[Problem]:
    from actors.weights.sender import choose_backend  # it imports torch

    shared, device = shares_gpu(c), device_of(c)
    try:
        choose_backend(c.rollout, device, shared)
    except ValueError as error:
        yield Problem("rollout.weight_sync", c.rollout.weight_sync, str(error), "auto chooses what works")
    if c.rollout.checksums:
        spec = importlib.util.find_spec("vllm")
        if spec and not Path(spec.origin or "").with_name("model_executor").joinpath(CHECKSUMS).is_file():
            yield Problem("rollout.checksums", True, "the installed vLLM has no such checksums", "install vLLM 0.32")
        if c.cluster.roles.rollout.num_workers == 1:
            yield Problem("rollout.checksums", True, "there is one engine, nothing to compare", "set it to false", True)
    level = c.rollout.sleep_level
    if level > 0 and not shared:
        cure = "set it to 0, or cluster.roles.rollout.colocate_with=policy"
        text = "the engine shares no GPU: no role would use the memory it frees"
        yield Problem("rollout.sleep_level", level, text, cure)
    elif level > 0 and device == "cpu":
        yield Problem("rollout.sleep_level", level, "has no effect on CPU", "set it to 0", True)
    if c.rollout.kv_after_update is KvAfterUpdate.recompute and not c.trainer.max_staleness:
        text, cure = "with trainer.max_staleness=0 no request is running when new weights arrive", "set it to keep"
        yield Problem("rollout.kv_after_update", c.rollout.kv_after_update.value, text, cure, True)


def _engine(c: Config) -> Iterator[Problem]:
    e, parity = c.engine, c.trainer.parity
    if len(e.optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in e.optimizer.betas):
        text = "not two numbers from 0 to below 1"
        yield Problem("engine.optimizer.betas", e.optimizer.betas, text, "such as [0.9,0.95]")
    if e.compile and e.zero_stage == 3:
        text = "compiled layers cannot gather the weights that ZeRO 3 splits"
        yield Problem("engine.compile", True, text, "set it to false, or engine.zero_stage=2")
    if e.offload_optimizer and (e.zero_stage == 0 or device_of(c) == "cpu"):
        text = "offloading moves optimizer states from GPU to host memory, under ZeRO 1 to 3"
        yield Problem("engine.offload_optimizer", True, text, "set it to false, or engine.zero_stage=2 on GPUs")
    if e.offload is not Offload.none:
        yield from _offload(c)
    if c.model.dtype is DType.bfloat16 and (parity.tolerance or 1.0) < 0.05 and parity.stop:
        text = "bfloat16 log-probs of two engines differ by more than this"
        cure = "leave it out: then it is 1.0, and 0.05 for the mean"
        yield Problem("trainer.parity.tolerance", parity.tolerance, text, cure, True)


def _offload(c: Config) -> Iterator[Problem]:
    key, value = "engine.offload", c.engine.offload
    if device_of(c) == "cpu" or not shares_gpu(c):
        text = "it frees GPU memory for engines on the policy's GPUs, and there are none"
        yield Problem(key, value, text, "set it to none, or use a layout such as cluster=gpu1_colocated")
    elif c.rollout.sleep_level == 0:
        text = "with rollout.sleep_level=0 the engines keep their memory while models work: they gain nothing"
        yield Problem(key, value, text, "set it to none, or rollout.sleep_level=1")
    elif c.engine.offload_optimizer and value is Offload.optimizer:
        text = "with engine.offload_optimizer=true the optimizer is always in host memory"
        yield Problem(key, value, text, "set it to all or none, or engine.offload_optimizer=false")
