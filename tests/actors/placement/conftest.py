"""No Ray cluster in the environment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from actors.placement.ray_connection import reload_authentication


@pytest.fixture
def no_cluster_named() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        yield
    reload_authentication()  # for the clusters that later tests start in this process
