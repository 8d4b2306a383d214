"""The verifier processes."""

import json

from rlcore.rewards import child
from rlcore.rewards.pool import Item, Term
from rlcore.types import RewardInput, Status
from tests.rewards.cases import act, gone


def test_printing_does_not_reach_the_protocol(pool):
    assert [r.score for r in pool.submit(act("noise", "fine", "noise")).result(30)] == [0.75, 1.0, 0.75]


def test_info_arrives_as_plain_values(pool):
    info = pool.submit(act("rich")).result(30)[0].info
    assert info["nested"] == {"a": [1, 2]}
    assert "object object" in info["object"]
    assert len(info["text"]) <= 2000
    json.dumps(dict(info))


def test_what_a_reward_starts_dies_with_it(pool, tmp_path):
    file = tmp_path / "pid"
    assert pool.submit(act("spawn", pid_file=str(file))).result(30)[0].status is Status.TIMEOUT
    assert gone([int(file.read_text())])


def test_pack_keeps_every_field():
    a = Term("a", "x.py:f", 0.5, {"k": 1})
    items = [
        Item((a, Term("b")), RewardInput("p", "r", "ref", "length", 7, {"col": [1]})),
        Item((Term("c"),), RewardInput("p2", "r2")),
    ]
    assert child.unpack(child.pack(items)) == items
