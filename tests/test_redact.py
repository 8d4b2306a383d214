"""Secrets are masked, and nothing else."""

from __future__ import annotations

import json

import pytest

from rlcore.redact import is_secret_name, strip_secrets, strip_text


@pytest.mark.parametrize(
    "name",
    ["api_key", "WANDB_API_KEY", "apiKey", "APIKey", "hf-token", "hubToken", "password", "db.passwd", "client_secret",
     "AWS_SECRET_ACCESS_KEY", "auth", "Authorization", "credentials", "--api-key"],
)  # fmt: skip
def test_secret_names(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["max_tokens_per_micro_batch", "max_new_tokens", "monkey", "tokenizer", "keyboard", "author", "keep"]
)
def test_harmless_names(name):
    assert not is_secret_name(name)


def test_strip_secrets():
    config = {
        "api_key": "abc", "seed": 3, "max_new_tokens": 256, "empty_key": "", "no_token": None, "use_auth": True,
        "password": 1234, "token_id": 7, "level": "token",
        "nested": [{"token": ["a", {"b": "c"}]}, ("x", 1.5)],
        "address": "https://me:pass@host:80/x?token=t0&n=1", "plain": "https://host/x?n=1",
        "env": ["WANDB_API_KEY=abc STEPS=3", 'export HF_TOKEN="a b c"'],
        "argv": ["--token", "abc", "--steps", "3", "--api-key=xyz"],
        "loose": "use sk-abcdefghijklmnop1234 now", "header": "Authorization: Bearer abcdef123456",
        "extra": {"hub": "hf_abcdefghijklmnopqrstuvwx"},
    }  # fmt: skip
    before = json.dumps(config)
    assert strip_secrets(config) == {
        "api_key": "***", "seed": 3, "max_new_tokens": 256, "empty_key": "", "no_token": None, "use_auth": True,
        "password": "***", "token_id": 7, "level": "token",
        "nested": [{"token": ["***", {"b": "***"}]}, ["x", 1.5]],
        "address": "https://***@host:80/x?token=***&n=1", "plain": "https://host/x?n=1",
        "env": ["WANDB_API_KEY=*** STEPS=3", "export HF_TOKEN=***"],
        "argv": ["--token", "***", "--steps", "3", "--api-key=***"],
        "loose": "use *** now", "header": "Authorization: *** ***",
        "extra": {"hub": "***"},
    }  # fmt: skip
    assert json.dumps(config) == before, "the config itself keeps them"


@pytest.mark.parametrize(
    "text",
    ["lr=1e-6 max_new_tokens=256", "C:\\path\\file.py:function", "a=b, c = d", "{prompt}", "47+58=", "3:4", "user@host",
     "https://huggingface.co/org/model", "runs/${name}", ""],
)  # fmt: skip
def test_ordinary_strings_stay(text):
    assert strip_text(text) == text


@pytest.mark.parametrize(
    "secret",
    ["ghp_" + "a1" * 18, "AKIA" + "Z" * 16, "xoxb-1234567890-abc", "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.sig",
     "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "Bearer abcdefgh"],
)  # fmt: skip
def test_well_known_shapes(secret):
    stripped = strip_text(f"before {secret} after")
    assert stripped.startswith("before ")
    assert stripped.endswith("*** after")
    assert secret not in stripped
