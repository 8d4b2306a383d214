"""A verifier pool, the package reasoning-gym and sandboxes, shared by the tests of a module."""

import pytest

from rlcore.rewards.pool import VerifierPool
from rlcore.rewards.sandbox import SandboxConfig, SandboxError, Tier, get


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(num_processes=1, timeout_s=1.0, memory_limit_mb=1024) as shared:
        yield shared


@pytest.fixture(scope="module")
def gym():
    pytest.importorskip("reasoning_gym")
    import rlcore.rewards.gym

    return rlcore.rewards.gym


@pytest.fixture(scope="module", params=["landlock", "bwrap"])
def tier(request):
    try:
        get(SandboxConfig(tier=Tier(request.param)))
    except SandboxError as error:
        pytest.skip(str(error))
    return {"tier": request.param}
