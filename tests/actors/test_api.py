"""The Python interface."""

from __future__ import annotations

import pytest

import rlcore
from actors.config import config_file
from tests.actors.cases import written


def test_the_python_interface_composes(tmp_path):
    assert rlcore.compose(["algorithm=rloo"]).algorithm.name == "rloo"
    config = rlcore.compose({"defaults": {"algorithm": "rloo"}, "trainer": {"steps": 3}}, ["seed=2"])
    assert (config.algorithm.name, config.trainer.steps, config.seed) == ("rloo", 3, 2)
    assert not config.tracking.console
    assert rlcore.compose({"algorithm": "rloo"}, ["algorithm=dapo"]).algorithm.name == "dapo"
    assert rlcore.compose({"tracking": {"console": True}}).tracking.console
    assert rlcore.compose(written(tmp_path, "seed: 4\n")).seed == 4
    assert rlcore.compose(config) is config
    with pytest.raises(rlcore.UserError, match=r"did you mean trainer\.steps"):
        rlcore.compose({"trainer": {"stepz": 1}})
    with pytest.raises(AttributeError):
        rlcore.nonsense  # noqa: B018


def test_from_values_leaves_the_given_mapping_alone():
    given = {"algorithm": "rloo", "tracking": {"num_samples": 1}}
    config_file.from_values(given, quiet=True)
    assert given == {"algorithm": "rloo", "tracking": {"num_samples": 1}}
