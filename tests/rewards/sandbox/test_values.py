"""Values that cross the sandbox border."""

import pytest

from rlcore.rewards.sandbox import Call, Ending, Job, values


def test_calls_of_objects_that_cannot_travel(sandbox):
    (outcome,) = sandbox.run(Job("class A: pass\ndef f(): return A()", calls=[Call("f")]))
    assert outcome.ending is Ending.done
    assert repr(outcome.value) == "<an object of class A>"
    assert outcome.value != outcome.value


def test_encodings_cross_unchanged_and_hostile_ones_are_refused():
    given = [1, -(2**9000), True, None, "a", 1.5, (1, [2]), {1: {2, 3}}, frozenset({"x"}), b"\0", 1j, {(1, 2): None}]
    assert repr(values.decode(values.loads(values.dumps({"v": values.encode(given)})[4:])["v"])) == repr(given)
    step = 2**61 - 1
    hostile = [
        {"s": [k * step for k in range(2000)]},
        {"d": [[{"t": [k * step]}, 0] for k in range(2000)]},
        {"q": ["f" * 100_000, "7"]},
        {"d": [[1]]},
        {"d": [1]},
        {"o": ["Unknown", {}]},
        {"i": "xyz"},
        {"unknown": 1},
        {"t": 5},
        {},
        {"s": [[]]},
    ]
    for data in hostile:
        with pytest.raises(values.ValueRefused):
            values.decode(data)
    assert len(values.decode({"s": list(range(5000))})) == 5000
    with pytest.raises(values.ValueRefused):
        values.loads(b"[" * 100_000)


def test_an_instance_cannot_bring_methods_along():
    class Node:
        def valid(self):
            return False

    assert not values.decode({"o": ["Node", {"val": 1}]}, classes={"Node": Node}).valid()
    with pytest.raises(values.ValueRefused, match="method"):
        values.decode({"o": ["Node", {"valid": True}]}, classes={"Node": Node})
