"""A verifier pool shared by the tests of a module."""

import pytest

from rlcore.rewards.pool import VerifierPool


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(num_processes=1, timeout_s=1.0, memory_limit_mb=1024) as shared:
        yield shared
