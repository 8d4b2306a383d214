"""Steps per second with uneven lengths: sampling one step ahead (K = 1) over taking turns (K = 0).

    python tests/bench/uneven.py                         8 prompts x 8 samples, 16 or 256 tokens: about 8 minutes

One sample in eight, at random, is 16 times longer. The lengths are the model's own, not a limit: the bench builds a
Qwen2 folder whose weights make it a chain. Tokens are links; the output layer points from each link to the next, the
last link to the end token, and the attention and MLP blocks compute in full but add nothing (their output layers are
zero). Every prompt ends with a fork: with probability 7/8 the next token is the link `--short` tokens before the end,
otherwise the one 16 times as far from it. The learning rate is 1e-12: updates cost what they cost and change nothing.
So both sides sample the same work from real vLLM engines and train on it with real DeepSpeed.

Policy and engine have a core each on both sides; sides take turns in every round. Prints one JSON line: medians over
the rounds of steps per second, their ratio, the share of time in which the engine had nothing to do, and where the
seconds of a step go.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

LONGER, WIDTH, SHARE = 16, 128, 8
FIRST_STEPS = 3  # caches, and the steps in which nothing runs ahead yet
SHOWN = ("timing_s/", "wait/", "rollout/age", "response_length/", "sync/pause_s")
FORK = "?"


def chain(folder: Path, short: int) -> None:
    """The model described above. Tokens: pad, end, one per byte for the prompts, then the links in order."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

    links = LONGER * short - 1  # the end token is the last of a response
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<pad>", "<end>", *characters, *(f"l{i}" for i in range(links))]
    token = {name: i for i, name in enumerate(names)}
    tokenizer = Qwen2Tokenizer(vocab=token, merges=[], pad_token="<pad>", eos_token="<end>", unk_token=None)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4}
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(names), intermediate_size=344, max_position_embeddings=LONGER * short + 16,
            tie_word_embeddings=False, eos_token_id=1, pad_token_id=0, bos_token_id=None, **shape,
        )
    )  # fmt: skip
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        directions = torch.randn(len(names), WIDTH)
        directions[:, -1] = 0
        directions[token[FORK]] = torch.eye(WIDTH)[-1]  # at a right angle to all others: its odds are exact
        directions = torch.nn.functional.normalize(directions, dim=1)
        model.model.embed_tokens.weight.copy_(directions)  # the final norm makes them sqrt(WIDTH) long
        head, one = torch.zeros(len(names), WIDTH), 60 / math.sqrt(WIDTH)  # 60 nats for the next link
        for i in range(links):
            head[token[f"l{i + 1}"] if i + 1 < links else 1] += one * directions[token[f"l{i}"]]
        head[token[f"l{links - short + 1}"]] += one * directions[token[FORK]]
        head[token["l0"]] += (one - math.log(SHARE - 1) / math.sqrt(WIDTH)) * directions[token[FORK]]
        model.lm_head.weight.copy_(head)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 1
    model.save_pretrained(folder)


def data(folder: Path, count: int) -> None:
    file = folder / "prompts.jsonl"
    rows = [{"prompt": f"{i:05d}{FORK}", "reference": "-"} for i in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def reward(folder: Path) -> None:
    """Any will do: long responses score 1."""
    file = folder / "length.py"
    file.write_text("def long(sample):\n    return float(sample.num_response_tokens > 64)\n")


def run(folder: Path, options: argparse.Namespace, ahead: int, name: str) -> list[dict[str, Any]]:
    overrides = [
        f"run_dir={folder / name}", "resume=never", f"model.path={folder / 'model'}",
        "data=jsonl", f"data.train={folder / 'prompts.jsonl'}", "data.chat_template=false",
        "data.max_prompt_tokens=8", "data.num_eval=1", "trainer.eval.every=0", "trainer.eval.max_prompts=1",
        f"reward.fn={folder / 'length.py'}:long", f"rollout.max_new_tokens={LONGER * options.short}",
        f"rollout.max_num_seqs={options.slots}", "rollout.prefix_caching=false",
        "cluster.roles.policy.num_workers=1", "cluster.roles.rollout.num_workers=1",
        f"trainer.steps={options.steps}", f"trainer.prompts_per_step={options.prompts}",
        f"trainer.samples_per_prompt={options.samples}", "trainer.updates_per_step=1", "trainer.warmup.steps=0",
        "trainer.learning_rate.peak=1e-12", "trainer.learning_rate.warmup_steps=0",
        "trainer.checkpoint.every=0", f"trainer.max_staleness={ahead}",
        "tracking.wandb.mode=disabled", "tracking.console=false", *options.override,
    ]  # fmt: skip
    subprocess.run(["rlcore", "train", *overrides], check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["step"] > FIRST_STEPS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", type=int, default=16, help="tokens of a short response, end token included")
    parser.add_argument("--prompts", type=int, default=8, help="per step")
    parser.add_argument("--samples", type=int, default=8, help="per prompt")
    parser.add_argument("--slots", type=int, default=256, help="samples that the engine runs at a time")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--override", nargs="*", default=[], help="of rlcore's config, for both sides")
    options = parser.parse_args()
    rows: dict[int, list[list[dict[str, Any]]]] = {0: [], 1: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chain(folder / "model", options.short)
        data(folder, 2 * options.prompts * options.steps)
        reward(folder)
        for i in range(options.rounds):
            for ahead in (0, 1) if i % 2 == 0 else (1, 0):
                rows[ahead].append(run(folder, options, ahead, f"k{ahead}-{i}"))
    print(json.dumps(result(rows, options)))


def result(rows: dict[int, list[list[dict[str, Any]]]], options: argparse.Namespace) -> dict[str, Any]:
    rates = {k: [1 / mean(of, "timing_s/step") for of in runs] for k, runs in rows.items()}
    found: dict[str, Any] = {
        "bench": "uneven",
        "steps_per_s": {f"k{k}": round(statistics.median(of), 3) for k, of in rates.items()},
        "k1_over_k0": round(statistics.median(b / a for a, b in zip(rates[0], rates[1], strict=True)), 3),
        "engine_idle_share": {
            f"k{k}": round(statistics.median(idle_share(of) for of in runs), 3) for k, runs in rows.items()
        },
    }
    for k, runs in rows.items():
        names = sorted({name for of in runs for row in of for name in row if name.startswith(SHOWN)})
        found[f"k{k}"] = {name: round(statistics.median(mean(of, name) for of in runs), 4) for name in names}
    settings = ("short", "prompts", "samples", "slots", "steps", "rounds")
    return found | {name: getattr(options, name) for name in settings}


def mean(rows: list[dict[str, Any]], name: str) -> float:
    return statistics.fmean(row.get(name) or 0.0 for row in rows)


def idle_share(rows: list[dict[str, Any]]) -> float:
    """Of one engine; its idle seconds are summed over a run, because a step's belong to several steps."""
    return sum(row["wait/engine_idle_s"] for row in rows) / sum(row["timing_s/step"] for row in rows)


if __name__ == "__main__":
    main()
