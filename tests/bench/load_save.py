"""Peak resident memory of each rank while a model is loaded, sent, exported, saved and restored. Prints one JSON line.

A Llama of random weights is written in several safetensors files; then real workers (two processes, gloo, ZeRO-3,
bfloat16) load it. Per phase and rank:

- `rss_mb`: highest resident memory of the phase, from the kernel's own high-water mark (VmHWM, reset with
  /proc/self/clear_refs), less the resident memory of the same process after it has built and trained a model of 1 M
  parameters (`base_mb`: libraries, process group). It counts mapped file pages, which the kernel can drop and which
  ranks of a node share;
- `anon_mb`: the same without file pages: RssAnon, read every 2 ms;
- `after_mb`: what stays resident (anonymous) when the phase is over;
- `share_mb`: what the rank must hold: its part of the weights (2 bytes a parameter) and, of a trained model, of the
  float32 master weights (4), of the gradients (4: DeepSpeed allocates them at start) and, once there was an update, of
  Adam's moments (8);
- `ratio`: (rss - the largest file of the folder that was read or written) / share. The goal is at most 1.3;
- `anon_ratio`: the same of `anon_mb`.

    python -m tests.bench.load_save                          # 1 B parameters: 12 GiB of memory, 15 GiB of disk
    python -m tests.bench.load_save --role reference
    python -m tests.bench.load_save --parameters 100e6 --phases load update save restore masters
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.integration.ports import free_port

MB = 1 << 20
RANKS = 2
# What is measured, in this order: `update` makes Adam's moments, `masters` is an export with the float32 weights
PHASES = ("load", "buckets", "update", "save", "restore", "masters", "export")


def build(folder: Path, parameters: float, shard_bytes: int, dtype: str = "bfloat16") -> tuple[int, int]:
    """Writes the model folder, never holding more than one file of it; (parameters, bytes of the largest file)."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    width, vocabulary = (2048, 32000) if parameters >= 5e8 else (1024, 8192) if parameters > 2e6 else (128, 512)
    layers = max(1, round((parameters - 2 * width * vocabulary) / (16 * width**2)))
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=512, tie_word_embeddings=False,
        dtype=dtype, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    stored: torch.dtype = getattr(torch, dtype)
    folder.mkdir()
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    torch.manual_seed(0)
    held: dict[str, torch.Tensor] = {}
    files: list[list[str]] = []

    def write() -> None:
        files.append(list(held))
        save_file(held, folder / f"part-{len(files)}.safetensors", {"format": "pt"})
        held.clear()

    for name, shape in shapes.items():
        if held and sum(t.nbytes for t in held.values()) + stored.itemsize * shape.numel() > shard_bytes:
            write()
        held[name] = torch.randn(shape, dtype=stored).mul_(0.02)
    write()
    places = {name: f"part-{i}.safetensors" for i, names in enumerate(files, 1) for name in names}
    total = sum(shape.numel() for shape in shapes.values())
    index = {"metadata": {"total_size": stored.itemsize * total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total, max(file.stat().st_size for file in folder.glob("*.safetensors"))


def resident(key: str) -> int:
    """Bytes of `VmHWM`, `VmRSS` or `RssAnon` of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


@contextmanager
def measured(phases: dict[str, Any], phase: str, base: tuple[int, int]) -> Iterator[None]:
    """Adds the peaks of the block to `phases`; `base`: VmRSS and RssAnon to leave out."""
    Path("/proc/self/clear_refs").write_text("5")
    highest, done, started = resident("RssAnon"), threading.Event(), time.perf_counter()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, resident("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    after = resident("RssAnon")
    phases[phase] = {
        "seconds": round(time.perf_counter() - started, 1),
        "rss_mb": (resident("VmHWM") - base[0]) / MB,
        "anon_mb": (max(highest, after) - base[1]) / MB,
        "after_mb": (after - base[1]) / MB,
    }


def rank_main(rank: int, address: tuple[str, int], options: argparse.Namespace, out: str, pipe: Any) -> None:
    from actors.config.schema import DType, EngineConfig, ModelConfig
    from actors.training.worker import PolicyWorker, ReferenceWorker, StartSpec
    from rlcore.algorithms.config import AlgorithmConfig
    from rlcore.algorithms.policy_gradient import PolicyGradientObjective
    from tests.bench.policy import make_batch

    worker = PolicyWorker() if options.role == "policy" else ReferenceWorker()
    model, engine = ModelConfig(dtype=DType.bfloat16), EngineConfig(zero_stage=3)
    phases: dict[str, Any] = {}

    def update() -> None:
        batch = make_batch(2, 16, 512)
        worker.update(batch, [[0, 1]], 40.0, 1e-6, PolicyGradientObjective(AlgorithmConfig(), 1.0, 16))

    def load() -> None:
        worker._build(f"{out}/start", worker._load)

    def gather() -> None:
        for bucket in worker.engine.buckets(options.bucket_mb * MB):
            del bucket

    worker.start(StartSpec(rank, RANKS, *address, "cpu", f"{out}/base", model, engine))
    if options.role == "policy":
        update()
    base = (resident("VmRSS"), resident("RssAnon"))
    todo: list[tuple[str, Callable[[], Any]]] = [("load", load), ("buckets", gather)]
    if options.role == "policy":
        todo += [("update", update)]
        todo += [("save", lambda: worker.save(f"{out}/checkpoint"))]
        todo += [("restore", lambda: worker.load(f"{out}/checkpoint"))]
        todo += [("masters", lambda: worker.export(f"{out}/masters", True))]
    todo += [("export", lambda: worker.export(f"{out}/model"))]
    for phase, run in todo:
        if phase in options.phases:
            with measured(phases, phase, base):
                run()
    pipe.send((base[0] / MB, phases))
    worker.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=1e9)
    parser.add_argument("--shard-mb", type=int, default=512, help="largest file of the model folder")
    parser.add_argument("--stored", default="bfloat16", choices=["bfloat16", "float32"], help="dtype of the folder")
    parser.add_argument("--bucket-mb", type=int, default=256, help="of the weight sync")
    parser.add_argument("--role", default="policy", choices=["policy", "reference"])
    parser.add_argument("--phases", nargs="+", default=[p for p in PHASES if p != "update"], choices=PHASES)
    parser.add_argument("--folder", help="for the files; default: a temporary one")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    address = ("127.0.0.1", free_port())

    with tempfile.TemporaryDirectory(dir=options.folder) as out:
        build(Path(out) / "base", 1e6, MB)
        parameters, shard = build(Path(out) / "start", options.parameters, options.shard_mb * MB, options.stored)
        context = mp.get_context("spawn")
        pipes, processes = [], []
        for rank in range(RANKS):
            ours, theirs = context.Pipe(duplex=False)
            args = (rank, address, options, out, theirs)
            processes.append(context.Process(target=rank_main, args=args, daemon=True))
            processes[-1].start()
            theirs.close()  # so that a rank that dies ends the wait
            pipes.append(ours)
        found = [pipe.recv() for pipe in pipes]
        for process in processes:
            process.join()
        written = max((file.stat().st_size for file in Path(out).glob("m*/model*.safetensors")), default=0)
    own, trained = parameters / RANKS / MB, False
    phases = []
    for phase in found[0][1]:
        trained = trained or phase == "update"
        share = own * (2 + 8 * (options.role == "policy") + 8 * trained)
        for rank, (_, measures) in enumerate(found):
            row = {"phase": phase, "rank": rank, "share_mb": share, **measures[phase]}
            row = {k: round(v) if k.endswith("mb") else v for k, v in row.items()}
            file_mb = (written if phase in ("export", "masters") else shard) / MB
            for kind, name in (("rss_mb", "ratio"), ("anon_mb", "anon_ratio")):
                row[name] = round((row[kind] - file_mb) / share, 2)
            phases.append(row)
    print(json.dumps({
        "bench": "load_save", "role": options.role, "parameters": parameters,
        "stored": options.stored, "read_file_mb": round(shard / MB), "written_file_mb": round(written / MB),
        "bucket_mb": options.bucket_mb, "base_mb": [round(base) for base, _ in found], "phases": phases,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
