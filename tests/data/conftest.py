from __future__ import annotations

import pytest

from actors.config.schema import ModelConfig
from actors.training.models import load_tokenizer, prepare_model


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """The real character tokenizer of the tiny model: ids differ from the characters, two special tokens."""
    return load_tokenizer(prepare_model(ModelConfig(), tmp_path_factory.mktemp("run"), seed=0))
