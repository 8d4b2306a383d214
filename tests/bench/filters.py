"""Precision and recall of the near-duplicate and contamination filters, or the speed of all of them.

    python tests/bench/filters.py                        20,000 texts with planted near duplicates and leaks
    python tests/bench/filters.py --records 1000000      a million short records: seconds, records/s, peak memory

The truth is computed apart from the filters, on Python sets of word tuples: every pair of texts that share a shingle
gets its exact Jaccard similarity, and every text the exact share of each evaluation text's n-grams.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from collections import Counter, defaultdict

import pyarrow as pa

from rlcore.data import tables
from rlcore.data.filters import FilterContext, apply

EDITS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)  # share of words replaced
THRESHOLDS, SHINGLE, N, SHARE = (0.8, 0.5), 3, 8, 0.5


def vocabulary(rng: random.Random, size: int) -> list[str]:
    syllables = [c + v for c in "bcdfghjklmnprstvz" for v in "aeiou"]
    return list(dict.fromkeys("".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(size)))


def text(rng: random.Random, words: list[str], weights: list[float], low: int, high: int) -> list[str]:
    """Words with the frequencies of a language; one in four is a problem made from one of 20 templates."""
    if rng.random() < 0.25:
        template = random.Random(rng.randrange(20)).choices(words, weights, k=14)
        return [*template[:7], str(rng.randrange(1000)), *template[7:], str(rng.randrange(1000)), rng.choice(words)]
    return rng.choices(words, weights, k=rng.randint(low, high))


def edited(rng: random.Random, given: list[str], words: list[str], share: float) -> list[str]:
    out = list(given)
    for i in rng.sample(range(len(out)), round(share * len(out))):
        out[i] = rng.choice(words)
    return out


def table(texts: list[list[str]]) -> pa.Table:
    n = len(texts)
    columns = {name: pa.nulls(n, field.type) for name, field in zip(tables.PROMPTS.names, tables.PROMPTS, strict=True)}
    columns |= {"uid": pa.array([str(i) for i in range(n)]), "source": pa.array(["web"] * n)}
    return pa.table(columns | {"prompt": pa.array([" ".join(t) for t in texts])}, schema=tables.PROMPTS)


def grams(given: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(given[i : i + n]) for i in range(len(given) - n + 1)}


def similar(texts: list[list[str]], threshold: float) -> dict[int, set[int]]:
    """Text -> earlier texts of at least that exact similarity."""
    sets = [grams(t, SHINGLE) or {tuple(t)} for t in texts]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    found: dict[int, set[int]] = {}
    for i, shingles in enumerate(sets):
        common: Counter[int] = Counter()
        for shingle in shingles:
            common.update(holders[shingle])
            holders[shingle].append(i)
        found[i] = {j for j, c in common.items() if c / (len(shingles) + len(sets[j]) - c) >= threshold - 1e-12}
    return found


def figures(dropped: set[int], truth: set[int]) -> dict[str, float | int]:
    right = len(dropped & truth)
    return {"precision": round(right / max(len(dropped), 1), 5), "recall": round(right / max(len(truth), 1), 5),
            "dropped": len(dropped), "truth": len(truth)}  # fmt: skip


def dropped(given: pa.Table, config: dict, context: FilterContext) -> tuple[set[int], float]:
    start = time.perf_counter()
    kept, _ = apply(given, [config], context)
    return set(range(given.num_rows)) - {int(uid) for uid in kept["uid"].to_pylist()}, time.perf_counter() - start


def duplicates(size: int, seed: int, threshold: float) -> dict:
    rng = random.Random(seed)
    words = vocabulary(rng, 6000)
    weights = [1 / (i + 3) for i in range(len(words))]
    texts = [text(rng, words, weights, 15, 60) for _ in range(size * 4 // 5)]
    planted: dict[int, float] = {}
    originals = len(texts)
    while len(texts) < size:
        planted[len(texts)] = share = rng.choice(EDITS)
        texts.append(edited(rng, texts[rng.randrange(originals)], words, share))
    found, seconds = dropped(table(texts), {"kind": "near_duplicates", "threshold": threshold}, FilterContext())
    near, kept, truth = similar(texts, threshold), set(), set()
    for i in range(size):  # a text goes if it is near one that stays
        (truth if near[i] & kept else kept).add(i)
    by_edit = {
        str(e): round(sum(i in found for i, s in planted.items() if s == e) / sum(s == e for s in planted.values()), 3)
        for e in EDITS
    }
    return figures(found, truth) | {
        "seconds": round(seconds, 2),
        "planted": figures(found & set(planted), {i for i in planted if near[i]}),
        "not_planted_dropped": len(found - set(planted)),
        "dropped_by_share_of_words_edited": by_edit,
    }


def contamination(size: int, seed: int) -> dict:
    rng = random.Random(seed + 1)
    words = vocabulary(rng, 6000)
    weights = [1 / (i + 3) for i in range(len(words))]
    evals = [text(rng, words, weights, 3, 40) for _ in range(1000)]
    texts = [text(rng, words, weights, 15, 60) for _ in range(size - 1000)]
    planted = {}
    for i in range(1000):
        leak = edited(rng, evals[i], words, share := rng.choice(EDITS))
        around = [rng.choices(words, weights, k=rng.randint(0, 30)) for _ in range(2)] if len(leak) >= N else [[], []]
        planted[len(texts)] = share
        texts.append([*around[0], *leak, *around[1]])
    context = FilterContext({"held_out": [" ".join(t) for t in evals]})
    found, seconds = dropped(table(texts), {"kind": "contamination", "n": N, "share": SHARE}, context)
    held = [grams(t, N) for t in evals]
    often = Counter(g for several in held for g in several)
    held = [{g for g in several if often[g] <= 10} for several in held]
    whole = {tuple(t) for t, several in zip(evals, held, strict=True) if not several}
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for e, several in enumerate(held):
        for g in several:
            index[g].append(e)
    truth = set()
    for i, t in enumerate(texts):
        met = Counter(e for g in grams(t, N) for e in index.get(g, ()))
        if tuple(t) in whole or any(c / len(held[e]) >= SHARE - 1e-12 for e, c in met.items()):
            truth.add(i)
    verbatim = {i for i, share in planted.items() if share == 0}
    return figures(found, truth) | {
        "seconds": round(seconds, 2),
        "verbatim_recall": round(len(found & verbatim) / len(verbatim), 5),
        "planted_share": round(len(found & set(planted)) / max(len(found), 1), 5),
    }


def many(records: int, seed: int) -> dict:
    """Short samples: a prompt of 10 to 30 words and as long a response, one in ten a near duplicate."""
    rng = random.Random(seed)
    words = vocabulary(rng, 20_000)
    pool = rng.choices(words, [1 / (i + 3) for i in range(len(words))], k=2_000_000)

    def piece() -> list[str]:
        start = rng.randrange(len(pool) - 40)
        return pool[start : start + rng.randint(10, 30)]

    parts, recent = [], [piece()]
    for first in range(0, records, 50_000):
        n = min(50_000, records - first)
        prompts = []
        for _ in range(n):
            made = (
                edited(rng, rng.choice(recent), words, 0.03)
                if rng.random() < 0.1
                else rng.sample(piece(), k=10) + piece()
            )
            recent = [*recent[-50:], made]
            prompts.append(" ".join(made))
        columns = {f.name: pa.nulls(n, f.type) for f in tables.SAMPLES} | {
            "uid": pa.array([f"p{first + i}" for i in range(n)]),
            "source": pa.array([rng.choice(("web", "math", "code")) for _ in range(n)]),
            "prompt": pa.array(prompts),
            "response": pa.array([" ".join(piece()) for _ in range(n)]),
            "response_ids": pa.array([[1] * rng.randint(5, 40) for _ in range(n)], tables.TOKENS),
            "finish_reason": pa.array(rng.choices(("stop", "length"), (0.97, 0.03), k=n)),
            "score": pa.array([rng.random() for _ in range(n)]),
            "status": pa.array(["ok"] * n),
        }
        parts.append(pa.table(columns, schema=tables.SAMPLES))
    given = pa.concat_tables(parts)
    filters = [
        {"kind": "finish_reason"},
        {"kind": "length", "unit": "characters", "max": 400},
        {"kind": "score", "min": 0.05},
        {"kind": "repetition"},
        {"kind": "duplicates", "of": "prompt"},
        {"kind": "near_duplicates", "of": "prompt"},
        {"kind": "contamination"},
    ]
    context = FilterContext({"held_out": [" ".join(piece()) for _ in range(2000)]})
    before, seconds, kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}, given
    for config in filters:
        start = time.perf_counter()
        kept, _ = apply(kept, [config], context)
        seconds[config["kind"]] = round(time.perf_counter() - start, 2)
    total = sum(seconds.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "records": records,
        "kept": kept.num_rows,
        "seconds": round(total, 1),
        "records_per_s": round(records / total),
        "by_filter_s": seconds,
        "table_mb": given.nbytes >> 20,
        "peak_rss_mb": peak >> 10,
        "peak_rss_before_mb": before >> 10,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--records", type=int, default=0, help="measure speed on this many records instead")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.records:
        print(json.dumps(many(options.records, options.seed)))
    else:
        made = {f"near_duplicates_{t}": duplicates(options.texts, options.seed, t) for t in THRESHOLDS}
        made["contamination"] = contamination(options.texts, options.seed)
        print(json.dumps({"texts": options.texts} | made))


if __name__ == "__main__":
    main()
