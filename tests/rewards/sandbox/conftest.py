"""A sandbox shared by the tests of a module."""

import pytest

from rlcore.rewards.sandbox import SandboxConfig, SandboxError, Tier, make


@pytest.fixture(scope="module")
def sandbox():
    try:
        made = make(SandboxConfig(tier=Tier.landlock))
    except SandboxError as error:
        pytest.skip(str(error))
    yield made
    made.close()
