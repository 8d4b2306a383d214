"""Does rlcore fit a release of vLLM for CUDA? `make gpu-contract`; needs the network and no GPU.

Fetches the wheel of each release without its dependencies, keeps its Python sources, and looks there for every name,
signature and abstract method that rlcore uses, by syntax tree: nothing of vLLM is imported. What rlcore uses is read
from rlcore's own sources where it can be. The exit status is 1 if something that is needed is missing.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

RELEASES = ("0.26.0", "0.32.0", "0.33.0")
ROOT = Path(__file__).parent.parent
TRANSFER = "distributed/weight_transfer"
BASE, FACTORY = f"{TRANSFER}/base.py", f"{TRANSFER}/factory.py"
RELOAD, WORKER = "model_executor/model_loader/reload/layerwise.py", "v1/worker/gpu_worker.py"
ENGINE, OUTPUT = "v1/engine/llm_engine.py", "v1/engine/output_processor.py"
# rlcore asks for these before it uses them, or needs them in no release
OPTIONAL = {"set_weight_version"}


def sources(release: str, cache_folder: Path) -> Path:
    """The folder `vllm` of a release, fetched once; the wheel (300 MB) is deleted."""
    target = cache_folder / release
    if not (target / "vllm").is_dir():
        with tempfile.TemporaryDirectory(dir=cache_folder) as folder:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", folder]
            subprocess.run([*command, f"vllm=={release}"], check=True)
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                wanted = [n for n in archive.namelist() if n.endswith((".py", "METADATA"))]
                archive.extractall(target, wanted)
    return target / "vllm"


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def class_of(module: ast.Module, name: str) -> ast.ClassDef | None:
    return next((n for n in ast.walk(module) if isinstance(n, ast.ClassDef) and n.name == name), None)


def methods(owner: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {n.name: n for n in owner.body if isinstance(n, ast.FunctionDef)}


def fields(owner: ast.ClassDef) -> set[str]:
    return {n.target.id for n in owner.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}


def own_attributes(owner: ast.ClassDef) -> set[str]:
    """What its methods set on `self`."""
    set_here = (n for n in ast.walk(owner) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store))
    return {n.attr for n in set_here if isinstance(n.value, ast.Name) and n.value.id == "self"}


def accepts(function: ast.FunctionDef, *names: str) -> bool:
    arguments = {a.arg for a in [*function.args.args, *function.args.kwonlyargs]}
    return function.args.kwarg is not None or arguments >= set(names)


def abstract(owner: ast.ClassDef) -> set[str]:
    marked = {n: [ast.unparse(d) for d in f.decorator_list] for n, f in methods(owner).items()}
    return {name for name, decorators in marked.items() if any(d.endswith("abstractmethod") for d in decorators)}


# ---- what rlcore uses, read from its sources


def attributes_of(file: str, target: str) -> set[str]:
    """Names that a file of `actors.generation` takes from `target`, such as "self._llm"."""
    nodes = (n for n in ast.walk(tree(ROOT / "actors/generation" / file)) if isinstance(n, ast.Attribute))
    return {n.attr for n in nodes if ast.unparse(n.value) == target}


def keywords_of(file: str, call: str) -> set[str]:
    nodes = (n for n in ast.walk(tree(ROOT / "actors/generation" / file)) if isinstance(n, ast.Call))
    return {k.arg for n in nodes if ast.unparse(n.func) == call for k in n.keywords if k.arg}


def engine_argument_names() -> set[str]:
    from actors.config.schema import RolloutConfig
    from actors.generation.vllm_settings import engine_arguments

    config = RolloutConfig(gpu_memory_utilization=0.5)
    both = [engine_arguments("m", config, device, "bfloat16", 64, 0) for device in ("cpu", "cuda")]
    return {name for arguments in both for name in arguments} | {"weight_transfer_config"}


def environment_names() -> set[str]:
    text = (ROOT / "actors/generation/vllm_settings.py").read_text()
    return set(re.findall(r'"(VLLM_\w+)"', text))


# ---- held against a release


def missing(vllm: Path) -> Iterator[str]:
    """Every need that the release does not meet."""
    yield from _transfer(vllm)
    yield from _engine(vllm)
    module = tree(vllm / "engine/arg_utils.py")
    known = fields(class_of(module, "EngineArgs") or ast.ClassDef())
    yield from (f"EngineArgs.{name}" for name in sorted(engine_argument_names() - known))
    parameters = class_of(tree(vllm / "sampling_params.py"), "SamplingParams") or ast.ClassDef()
    wanted = keywords_of("vllm_settings.py", "SamplingParams")
    yield from (f"SamplingParams.{name}" for name in sorted(wanted - fields(parameters)))
    texts = {
        "sampling_params.py": ["FINAL_ONLY"], "inputs/llm.py": ["cache_salt", "prompt_token_ids"],
        "plugins/__init__.py": ['"vllm.general_plugins"'], "config/model.py": ['"processed_logprobs"'],
        "config/parallel.py": ["rank: int"], "config/cache.py": ["num_gpu_blocks", "block_size"],
        "config/weight_transfer.py": ["class WeightTransferConfig", "backend:"],
        "envs.py": sorted(environment_names() - {"VLLM_CPU_OMP_THREADS_BIND"}),
    }  # fmt: skip
    for file, parts in texts.items():
        content = (vllm / file).read_text(encoding="utf-8") if (vllm / file).is_file() else ""
        yield from (f"{file}: {part}" for part in parts if part not in content)


def _transfer(vllm: Path) -> Iterator[str]:
    base = class_of(tree(vllm / BASE), "WeightTransferEngine")
    receiver = class_of(tree(ROOT / "actors/weights/vllm_side.py"), "Receiver")
    assert receiver is not None
    if base is None:
        yield f"{BASE}: WeightTransferEngine"
        return
    unmet, parsers = abstract(base) - set(methods(receiver)), {"parse_init_info", "parse_update_info"}
    yield from (f"abstract {name}, which Receiver does not have" for name in sorted(unmet))
    yield from (f"WeightTransferEngine.{name}" for name in sorted(parsers - set(methods(base))))
    given = {"device", "model", "model_config", "vllm_config"}
    yield from (f"WeightTransferEngine().{name}" for name in sorted(given - own_attributes(base)))
    factory = methods(class_of(tree(vllm / FACTORY), "WeightTransferEngineFactory") or ast.ClassDef())
    if "register_engine" not in factory or len(factory["register_engine"].args.args) < 3:
        yield "WeightTransferEngineFactory.register_engine(name, class)"
    functions = {n.name: n for n in tree(vllm / RELOAD).body if isinstance(n, ast.FunctionDef)}
    wanted = {"initialize_layerwise_reload", "finalize_layerwise_reload", "get_layerwise_info"}
    yield from (f"reload.{name}" for name in sorted(wanted - set(functions)))
    reloading = {"meta.py": ["def materialize_layer(layer"], "types.py": ["load_numel:", "def can_load("]}
    for file, parts in reloading.items():
        content = (vllm / RELOAD).with_name(file).read_text(encoding="utf-8")
        yield from (f"reload/{file}: {part}" for part in parts if part not in content)
    worker = methods(class_of(tree(vllm / WORKER), "Worker") or ast.ClassDef())
    calls = {"init_weight_transfer_engine": ["init_info"], "start_weight_update": [], "finish_weight_update": []}
    for name, arguments in (calls | {"update_weights": ["update_info"]}).items():
        if name not in worker or not accepts(worker[name], *arguments):
            yield f"Worker.{name}({', '.join(arguments)})"


def _engine(vllm: Path) -> Iterator[str]:
    engine = class_of(tree(vllm / ENGINE), "LLMEngine") or ast.ClassDef()
    known = set(methods(engine)) | own_attributes(engine)
    wanted = {"from_engine_args"} | attributes_of("vllm_engine.py", "self._llm")
    yield from (f"LLMEngine.{name}" for name in sorted(wanted - known - OPTIONAL))
    if "add_request" in known and not accepts(methods(engine)["add_request"], "request_id", "prompt", "params"):
        yield "LLMEngine.add_request(request_id, prompt, params)"
    reset = methods(engine).get("reset_prefix_cache")
    if reset is None or not accepts(reset, "reset_running_requests"):
        yield "LLMEngine.reset_prefix_cache(reset_running_requests)"
    if "collective_rpc" in known and not accepts(methods(engine)["collective_rpc"], "method", "args", "kwargs"):
        yield "LLMEngine.collective_rpc(method, args, kwargs)"
    state = class_of(tree(vllm / OUTPUT), "RequestState") or ast.ClassDef()
    marks = {"external_req_id", "request_index", "detokenizer"}
    yield from (f"RequestState.{name}" for name in sorted(marks - own_attributes(state)))


def lacks(vllm: Path) -> Iterator[str]:
    """What differs from the newest release, or is done without."""
    engine = class_of(tree(vllm / ENGINE), "LLMEngine") or ast.ClassDef()
    yield from (f"LLMEngine.{name}" for name in sorted(OPTIONAL - set(methods(engine))))
    if not (vllm / "model_executor/model_loader/weight_checksum.py").is_file():
        yield "Worker.compute_weight_checksums (rollout.checksums)"
    base = class_of(tree(vllm / BASE), "WeightTransferEngine") or ast.ClassDef()
    always = {"init_transfer_engine", "start_weight_update", "finish_weight_update", "receive_weights", "shutdown"}
    yield from (f"(has one more abstract method: {name})" for name in sorted(abstract(base) - always))
    trainer = class_of(tree(vllm / f"{TRANSFER}/ipc_engine.py"), "IPCTrainerInitInfo")
    if trainer is None:
        yield "trainer classes (rlcore uses none)"


def torch_of(vllm: Path) -> str:
    (metadata,) = vllm.parent.glob("vllm-*.dist-info/METADATA")
    found = re.search(r"^Requires-Dist: (torch==\S+)", metadata.read_text(), re.MULTILINE)
    return found[1] if found else "torch?"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="*", default=RELEASES)
    parser.add_argument("--cache", type=Path, default=ROOT / "build/gpu-contract", help="of the wheels' sources")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    broken = 0
    for release in options.releases:
        vllm = sources(release, options.cache)
        found = list(missing(vllm))
        broken += bool(found)
        print(f"vLLM {release} ({torch_of(vllm)}): {'BROKEN' if found else 'fits'}")
        for line in [*(f"missing: {name}" for name in found), *(f"lacks: {name}" for name in lacks(vllm))]:
            print(f"  {line}")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
