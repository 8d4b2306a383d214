"""Runs `rlcore rounds` on a checked config: the plan, the actors, the stages, the final table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from omegaconf import DictConfig, OmegaConf

from actors.build import Built, Inputs, open_world, prepare
from actors.commands.train import online_run, sampling_of, tracked
from actors.config.compose import LOG, ConfigError, check, compose, to_config
from actors.config.rounds import MADE_OF, folder_problems, plan_rounds, token_problems
from actors.config.schema import Config, DType
from actors.run_folder import binding, claim, locked, plain
from rlcore.algorithms.config import Opponent
from rlcore.data import tables
from rlcore.data.examples.config import ExamplesConfig
from rlcore.data.examples.load import Loaded, load_examples
from rlcore.data.sources.prompts import PromptStream
from rlcore.data.sources.render import PromptRenderer
from rlcore.data.tokenizer import encode
from rlcore.interfaces import World
from rlcore.loops.online import OnlineRun
from rlcore.loops.stop import StopSignal
from rlcore.problems import Problem, plural
from rlcore.reader import read
from rlcore.registry import code_digest
from rlcore.rounds import runner
from rlcore.rounds.context import RunContext
from rlcore.rounds.picture import draw
from rlcore.rounds.plan.config import Made
from rlcore.rounds.plan.graph import Node
from rlcore.rounds.stages.evaluate import EvaluateConfig
from rlcore.rounds.stages.generate import GenerateConfig
from rlcore.rounds.stages.rl import RlConfig
from rlcore.rounds.status import measured, render, survey
from rlcore.rounds.store.store import Artefact, ArtefactStore
from rlcore.tracking.files import JsonlTracker
from rlcore.tracking.trackers import Trackers
from rlcore.types import Prompt, Sample

# Not part of any key: the start model enters by its content; the others affect only placement and memory.
KEYS_WITHOUT_EFFECT = (
    "model.path", "model.gguf_file", "model.tiny", "model.trust_remote_code", "rollout.max_num_seqs",
    "rollout.sync_bucket_mb", "rollout.checksums", "rollout.weight_sync", "rollout.sleep_level",
    "rollout.gpu_memory_utilization", "rollout.cpu_kv_cache_gib", "engine.offload",
)  # fmt: skip
FREE_OF_ENVIRONMENT = ("environment.concurrency", "environment.host", "environment.memory_limit_mb")


def rounds(config: Config, overrides: Sequence[str]) -> int:
    """Runs all unfinished stages. `overrides`: the command line, from which a stage `rl` composes its config.

    Raises: UserError; Interrupted, after which the same command resumes.
    """
    nodes = checked(config, overrides)
    with locked(Path(config.run_dir)):
        run_dir = claim(config)
        inputs = prepared(config, run_dir, nodes)
        with ArtefactStore(runner.folder_of(run_dir)) as store:
            index = stage_index(config, nodes, store, roots_in(config, nodes, store, inputs))
            store.remember_roots(index.roots)
            _, made = index.known()
            if len(made) < len(nodes):
                _run(config, overrides, run_dir, inputs, index)
            keys, _ = index.known()
            print(render(nodes, keys, store))
            print(f"curves and samples of each stage  {run_dir / runner.STAGE_FOLDERS}")
            picture, title = run_dir / "rounds.png", f"{run_dir.name}, {plural(config.rounds.count, 'round')}"
            if draw(measured(survey(nodes, keys, store)), picture, title):
                print(f"curve of the rounds               {picture}")
    return 0


def status(config: Config) -> int:
    """The tree of rounds and stages. Reads only the store, with data and model of the latest start; it loads, writes
    and starts nothing.
    """
    nodes = checked(config)
    store = ArtefactStore(runner.folder_of(Path(config.run_dir).absolute()), read_only=True)
    keys, _ = stage_index(config, nodes, store, store.roots()).known()
    print(render(nodes, keys, store))
    return 0


def status_config(arguments: Sequence[str]) -> Config:
    """For `rounds status RUN_DIR` and `rounds status run_dir=RUN_DIR` the config of that run; otherwise the composed
    config.

    Raises:
        ConfigError: neither can be read.
    """
    if len(arguments) == 1:
        key, is_set, folder = arguments[0].rpartition("=")
        path = Path(folder).expanduser() / "config.yaml"
        if path.is_file() and (key == "run_dir" or not is_set):
            config = to_config(DictConfig(OmegaConf.load(path)))
            config.run_dir = str(path.parent)  # the folder may have moved
            return config
        if not is_set:
            text = "no run folder: it holds no config.yaml"
            raise ConfigError([Problem("run_dir", folder, text, "give the run_dir of a start, or all its overrides")])
    return compose(arguments)


def checked(config: Config, overrides: Sequence[str] | None = None) -> list[Node]:
    """The plan. `overrides`: the command line; with it the configs of stages `rl` are checked too.

    Raises:
        ConfigError: with everything that is wrong, stages included.
    """
    nodes, found = plan_rounds(config)
    try:
        check(config)
    except ConfigError as error:
        found = [*error.problems, *found]
    if not found and overrides is not None:
        found = rl_problems(nodes, overrides, config)
    if found:
        raise ConfigError(found)
    return nodes


def rl_problems(nodes: Sequence[Node], overrides: Sequence[str], run: Config) -> list[Problem]:
    """Of the run's config as each stage `rl` changes it; every one named with its stage."""
    found: dict[tuple[str, str], Problem] = {}
    for node in nodes:
        if isinstance(node.config, RlConfig):
            problems: list[Problem] = []
            try:
                stage = stage_config(overrides, node.config.overrides)
                problems += shared_problems(run, stage)
                check(stage)
            except ConfigError as error:
                problems += error.problems
            for one in problems:
                text = f"in rounds.stages.{node.stage}.overrides: {one.text}"
                found.setdefault((node.stage, one.key), replace(one, text=text))
    return list(found.values())


def shared_problems(run: Config, stage: Config) -> Iterator[Problem]:
    """Problems: settings that a stage changes although all stages share the actors."""
    key, mine, other = "trainer.max_tokens_per_micro_batch", run.trainer, stage.trainer
    if other.max_tokens_per_micro_batch != mine.max_tokens_per_micro_batch:
        text = f"all stages share the run's {mine.max_tokens_per_micro_batch}"
        yield Problem(key, other.max_tokens_per_micro_batch, text, f"set {key} for the whole run")
    opponent = stage.algorithm.preference.opponent
    if opponent is Opponent.reference and run.algorithm.preference.opponent is not opponent:
        key, text = "algorithm.preference.opponent", "the run starts no reference that can send its weights"
        yield Problem(key, opponent, text, f"set {key}=reference for the whole run")


def prepared(config: Config, run_dir: Path, nodes: Sequence[Node] = ()) -> Inputs:
    """Raises ModelError, DataError; ConfigError for models that cannot take the policy's place, and for texts that
    stages take for a token and are none."""
    inputs = prepare(config, run_dir)
    found = folder_problems(config, inputs.model_path, inputs.tokenizer)
    if found := [*found, *token_problems(nodes, inputs.tokenizer)]:
        raise ConfigError(found)
    return inputs


def stage_index(
    config: Config, nodes: Sequence[Node], store: ArtefactStore, roots: Mapping[str, Artefact]
) -> runner.StageIndex:
    flat = binding(plain(config))
    code = {(node.round, node.stage): code_of(node, config) for node in nodes}
    reads = lambda node: reads_of(node, flat, config)  # noqa: E731
    return runner.StageIndex(nodes, store, roots, reads, config.seed, lambda node: code[node.round, node.stage])


def roots_in(config: Config, nodes: Sequence[Node], store: ArtefactStore, inputs: Inputs) -> dict[str, Artefact]:
    """Built-in inputs that a stage reads, as artefacts."""
    used = {s.stage for node in nodes for sources in node.inputs.values() for s in sources if s.round == 0} | {"start"}
    makers: dict[str, Callable[[], Artefact]] = {
        "start": lambda: store.adopt_folder("start", inputs.model_path, Made.model),
        "train": lambda: store.adopt_table("train", tables.from_prompts(inputs.data.train), Made.prompts),
        "heldout": lambda: store.adopt_table("heldout", tables.from_prompts(inputs.data.eval), Made.prompts),
        "answers": lambda: store.adopt_table("answers", answers(inputs), Made.samples),
    }
    for name, path in config.rounds.models.items():
        makers[name] = lambda name=name, path=path: store.adopt_folder(name, Path(path).expanduser(), Made.model)  # type: ignore[misc]
    for name, raw in config.rounds.sources.items():
        makers[name] = lambda name=name, raw=raw: _source(name, raw, store, inputs)  # type: ignore[misc]
    return {name: makers[name]() for name in makers if name in used}


def answers(inputs: Inputs) -> pa.Table:
    """The training prompts with a reference, and the reference plus end token as response."""
    known = [p for p in inputs.data.train if p.reference is not None]
    ids = encode(inputs.tokenizer, [p.reference or "" for p in known], special=False)
    end = int(inputs.tokenizer.eos_token_id)

    def sample(prompt: Prompt, tokens: tuple[int, ...]) -> Sample:
        return Sample(prompt, f"{prompt.uid}#reference", prompt.reference or "", (*tokens, end))

    return tables.from_samples(sample(p, t) for p, t in zip(known, ids, strict=True))


def _source(name: str, raw: Any, store: ArtefactStore, inputs: Inputs) -> Artefact:
    """Raises DataError, which names the broken rows."""
    key = f"rounds.sources.{name}"
    source, _ = read(ExamplesConfig, raw, key)
    assert source is not None, "checked with the config"
    tools = None if inputs.environment is None else inputs.environment.schemas
    loaded = load_examples(source, inputs.tokenizer, key, tools)
    for note in source_notes(loaded):
        LOG.warning("%s: %s", key, note)
    made = MADE_OF[source.kind]
    makers: dict[Made, Callable[[], pa.Table]] = {
        Made.prompts: lambda: tables.from_prompts(loaded.prompts),
        Made.samples: lambda: tables.from_samples(loaded.samples),
        Made.pairs: lambda: tables.from_pairs(loaded.pairs),
    }
    return store.adopt_table(name, makers[made](), made)


def source_notes(loaded: Loaded) -> list[str]:
    """Messages about a loaded source: skipped rows and notes on its template."""
    skipped = {k: n for k, n in loaded.counts.items() if k.startswith("skipped_") and k != "skipped_by_limit" and n}
    rows = f"of {loaded.counts['rows']:,} rows left out"
    notes = [f"{n:,} {rows}: {k.removeprefix('skipped_').replace('_', ' ')}" for k, n in skipped.items()]
    return notes + [f"  {reason}" for reason in loaded.broken] + loaded.notes


def _under(key: str, groups: Sequence[str]) -> bool:
    return any(key == group or key.startswith(group + ".") for group in groups)


def reads_of(node: Node, flat: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The keys of the run's config that affect the output of a stage."""
    found = {k: v for k, v in flat.items() if _under(k, node.config.reads()) and not _under(k, KEYS_WITHOUT_EFFECT)}
    if plays(node, config):
        found |= {k: v for k, v in flat.items() if _under(k, ["environment"]) and not _under(k, FREE_OF_ENVIRONMENT)}
    if isinstance(node.config, RlConfig):  # may change in a longer run, but defines the result of a stage
        found |= {"trainer.steps": config.trainer.steps, "data.shuffle": config.data.shuffle}
    return found


def code_of(node: Node, config: Config) -> dict[str, str]:
    """Python of the user that a stage runs: path -> digest."""
    targets = node.config.code(config.reward, config.algorithm)
    if plays(node, config):
        fn = config.environment.fn or ""
        targets = [*targets, *config.environment.files, *([fn.rpartition(":")[0]] if ":" in fn else [])]
    return {target: code_digest(target) for target in targets}


def plays(node: Node, config: Config) -> bool:
    """Whether a stage plays rollouts against an environment."""
    return config.environment.fn is not None and isinstance(node.config, GenerateConfig | EvaluateConfig | RlConfig)


def _run(config: Config, overrides: Sequence[str], run_dir: Path, inputs: Inputs, index: runner.StageIndex) -> None:
    stages = len(index.plan)
    with tracked(config, run_dir, stages, stages) as tracker:
        runs = f"{plural(config.rounds.count, 'round')}, {plural(stages, 'stage')} to run"
        tracker.message(f"{runs}, run folder {run_dir}")
        stop = StopSignal(tracker.message)
        with open_world(config, run_dir, inputs, tracker) as built, stop.installed():
            runner.run(index, live(config, overrides, run_dir, built, stop, index.roots["start"]))


def live(
    config: Config, overrides: Sequence[str], run_dir: Path, built: Built, stop: StopSignal, start: Artefact
) -> RunContext:
    rollout = config.rollout

    def online(stage_overrides: Sequence[str], prompts: pa.Table, world: World, folder: Path, seed: int) -> OnlineRun:
        stage = stage_config(overrides, stage_overrides)
        stage.trainer.warmup.steps = 0
        stage.seed = seed
        stream = PromptStream(tables.to_prompts(prompts), seed, stage.data.shuffle)
        own = replace(built, world=replace(world, prompts=stream))
        return online_run(stage, folder, own, stop)

    def ask(text: str) -> tuple[str, tuple[int, ...]]:
        return rendered(text, config, built.inputs.tokenizer)

    def ask_prompt(text: str) -> tuple[str, tuple[int, ...]]:
        return rendered(text, config, built.inputs.tokenizer, config.data.system_prompt)

    return RunContext(
        world=built.world,
        tokenizer=built.inputs.tokenizer,
        sampling=sampling_of(config, 1),
        reward=config.reward,
        stop=stop,
        run_dir=run_dir,
        exact=config.model.dtype is DType.float32 and not config.model.lora.rank,
        open_tracker=lambda folder: Trackers([JsonlTracker(folder)], 0),
        online_run=online,
        render=ask,
        render_prompt=ask_prompt,
        max_prompt_tokens=config.context - rollout.max_new_tokens,
        parity=config.trainer.parity,
        policy_weights=start.hash,
    )


def rendered(text: str, config: Config, tokenizer: Any, system: str | None = None) -> tuple[str, tuple[int, ...]]:
    """As a user's message where the data has a chat template, as it is elsewhere; and its token ids. The prompt
    template is not applied: what is rewritten has it already."""
    renderer = PromptRenderer(config.data, tokenizer, "data")
    messages = [] if system is None else [{"role": "system", "content": system}]
    shown = renderer.apply([*messages, {"role": "user", "content": text}], True) if renderer.chat else text
    (ids,) = renderer.ids([shown])
    return shown, ids


def stage_config(overrides: Sequence[str], stage: Sequence[str]) -> Config:
    """The run's config with the overrides of the command line and then of the stage.

    Raises:
        ConfigError: they cannot be read.
    """
    return compose([*overrides, *stage])
