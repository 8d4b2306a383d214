"""What `make gpu-contract` reads from rlcore's own sources; the releases of vLLM themselves need the network."""

from __future__ import annotations

from pathlib import Path

import pytest

INSTALLED = Path(pytest.importorskip("vllm").__file__).parent

from tests import gpu_contract as contract  # noqa: E402


def test_the_names_that_rlcore_uses_are_found() -> None:
    assert {"step", "add_request", "collective_rpc"} <= contract.attributes_of("vllm_engine.py", "self._llm")
    assert "logprobs" in contract.keywords_of("vllm_settings.py", "SamplingParams")
    assert {"model", "load_format", "weight_transfer_config"} <= contract.engine_argument_names()
    assert "VLLM_USE_FLASHINFER_SAMPLER" in contract.environment_names()


def test_the_installed_release_meets_every_need() -> None:
    assert list(contract.missing(INSTALLED)) == []


def test_a_release_without_a_name_is_reported(tmp_path: Path) -> None:
    for file in INSTALLED.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "sampling_params.py").unlink()
    text = (INSTALLED / "sampling_params.py").read_text(encoding="utf-8")
    (tmp_path / "sampling_params.py").write_text(text.replace("FINAL_ONLY", "LAST_ONLY"), encoding="utf-8")
    assert list(contract.missing(tmp_path)) == ["sampling_params.py: FINAL_ONLY"]
