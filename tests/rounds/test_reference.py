"""Log-probs of the reference, computed once."""

from __future__ import annotations

import pytest

from tests.rounds.stages.cases import preferring
from tests.rounds.world import Killed, Stand


def test_the_reference_is_computed_once(tmp_path, monkeypatch):
    """A restart reads it from the draft."""
    stand = Stand(tmp_path, preferring())
    left = 3

    def at(place):
        nonlocal left
        left -= place == "update"
        if not left:
            left = -1
            raise Killed

    stand.at = at
    with pytest.raises(Killed):
        stand.run()
    asked = []
    actors = stand.actors

    def counted(start):
        live = actors(start)
        own = live.world.policy.logprobs
        live.world.policy.logprobs = lambda batch, temperature=None: asked.append(len(batch)) or own(batch, temperature)
        return live

    stand.actors = counted
    stand.run()
    assert not asked
    assert [event[0] for event in stand.log].count("update") == 6
    assert Stand(tmp_path / "whole", preferring()).run()[1, "tune"].hash == stand.artefacts_of("tune")
