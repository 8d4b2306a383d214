"""The built-in strings under constraints."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from rlcore.data.sources import constrained
from rlcore.data.sources.config import DataConfig, SourceKind
from rlcore.data.sources.load import load_data
from rlcore.data.sources.readers import DataError
from rlcore.rewards import constraints
from rlcore.rewards.constraints import read_row

CONFIG = DataConfig(source=SourceKind.constraints, num_eval=300, max_prompt_tokens=24)


def right(prompt: str, answer: str) -> bool:
    """Judged from the prompt alone, by other code than the reward's."""
    count, letter, banned, last, low, high = re.fullmatch(r"(\d)(.) no (.) end (.) (\d)-(\d):", prompt).groups()
    return (
        Counter(answer)[letter] >= int(count)
        and banned not in answer
        and answer[-1:] == last
        and int(low) <= len(answer) <= int(high)
    )


def test_the_worked_example():
    problem = constrained.Problem("a", 2, "c", "x", 5, 7)
    assert problem.prompt == "2a no c end x 5-7:"
    assert right(problem.prompt, "abbax")
    for answer in ("abax", "abbbx", "acaxx", "aabbb", "aabbbbbbx", ""):
        wrong = constraints.score(answer, problem.constraints())
        assert wrong.parts["all"] == 0.0 == float(right(problem.prompt, answer)), answer


def test_prompts_references_and_rewards_agree(tokenizer):
    data = load_data(CONFIG, tokenizer, seed=0)
    assert (len(data.eval), data.counts["eval"], data.counts["rows"]) == (300, 300, 3024)
    assert len({p.text for p in data.train + data.eval}) == 3024 == len({p.uid for p in data.train + data.eval})
    assert data.counts["longest_prompt_tokens"] <= 24
    for prompt in data.train + data.eval:
        assert right(prompt.text, prompt.reference)
        assert constraints.score(prompt.reference, read_row(prompt.metadata), mode="all").score == 1.0
    answers = {p.reference for p in data.train}
    assert len(answers) > 2000  # drawn by chance: there is no one answer to imitate


def test_the_reward_and_the_prompt_mean_the_same():
    rng = np.random.default_rng(3)
    alphabet, everything = list(constrained.LETTERS), constrained.problems()
    agree = Counter()
    for problem in (everything[i] for i in rng.integers(len(everything), size=60)):
        for n in range(50):
            answer = "".join(rng.choice(alphabet, size=int(rng.integers(1, 11)))) if n % 3 else problem.answer(rng)
            verdict = constraints.score(answer, problem.constraints()).parts["all"] == 1.0
            assert verdict == right(problem.prompt, answer), (problem, answer)
            agree[verdict] += 1
    assert min(agree.values()) > 500


def test_held_out_problems_differ_in_more_than_their_lengths(tokenizer):
    one, same, other = (load_data(CONFIG, tokenizer, seed=s) for s in (1, 1, 2))
    assert one == same
    assert {p.text for p in one.eval} != {p.text for p in other.eval}
    families = [{p.text.rsplit(" ", 1)[0] for p in side} for side in (one.train, one.eval)]
    assert not families[0] & families[1]
    odd = load_data(DataConfig(source=SourceKind.constraints, num_eval=5), tokenizer, seed=0)
    assert (len(odd.eval), len(odd.train)) == (5, 3024 - 8)


def test_bad_sizes(tokenizer):
    for num_eval in (-1, 3024, 5000):
        with pytest.raises(DataError, match="there are 3024 constraint problems"):
            load_data(DataConfig(source=SourceKind.constraints, num_eval=num_eval), tokenizer, seed=0)
    assert len(load_data(DataConfig(source=SourceKind.constraints, num_eval=0), tokenizer, seed=0).train) == 3024
