"""Masks secrets: use `strip_secrets` on a config before it is logged, written or sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

# "max_tokens" and "monkey" are not secrets: only whole words of snake_case, kebab-case and camelCase count
_NUMBERS_TOO = {"password", "passwd", "passphrase", "pwd", "secret"}
_SECRET_WORDS = _NUMBERS_TOO | {"key", "keys", "apikey", "token", "secrets", "credential", "credentials"}
_SECRET_WORDS |= {"auth", "authorization", "bearer", "dsn", "webhook", "cookie"}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_USER_INFO = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_ASSIGNED = re.compile(r"""([\w.-]+)(\s*=\s*|\s*:\s+)("[^"]*"|'[^']*'|[^\s&;,"']+)""")
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE)
_WELL_KNOWN = re.compile(  # tokens of hubs, clouds and code hosts; JSON web tokens; private keys
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{30,}|wandb_v1_\w{20,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)


def is_secret_name(name: str) -> bool:
    """True if a key, variable or flag of this name contains a secret.

    >>> is_secret_name("WANDB_API_KEY"), is_secret_name("hubToken"), is_secret_name("max_tokens_per_micro_batch")
    (True, True, False)
    """
    return not _SECRET_WORDS.isdisjoint(word.lower() for word in _WORD.findall(name))


def strip_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy with secrets replaced by `***`: strings under names such as `api_key`, `hub_token`, `password`;
    passwords inside URLs; `NAME=value` inside strings when the name is a secret's; well-known token shapes anywhere.
    Numbers and booleans stay, except under passwords and secrets. Tuples become lists.
    """
    return {str(key): _under(str(key), value) for key, value in config.items()}


def _under(key: str, value: Any) -> Any:
    if not is_secret_name(key):
        return _strip(value)
    numbers_too = not _NUMBERS_TOO.isdisjoint(word.lower() for word in _WORD.findall(key))
    return _mask(value, numbers_too)


def _mask(value: Any, numbers_too: bool) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _mask(item, numbers_too) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_mask(item, numbers_too) for item in value]
    if value is None or value == "" or isinstance(value, bool):
        return value
    return value if isinstance(value, int | float) and not numbers_too else MASK


def _strip(value: Any) -> Any:
    if isinstance(value, Mapping):
        return strip_secrets(value)
    if isinstance(value, list | tuple | set | frozenset):
        items, flag = [], False
        for item in value:  # ["--token", "abc"]
            items.append(MASK if flag and isinstance(item, str) and not item.startswith("-") else _strip(item))
            flag = isinstance(item, str) and item.startswith("-") and "=" not in item and is_secret_name(item)
        return items
    return strip_text(value) if type(value) is str else value


def strip_text(text: str) -> str:
    """The same for one string: an address, a command line, an environment file.

    >>> strip_text("WANDB_API_KEY=abc STEPS=3 https://me:pw@host/x?token=t&n=1")
    'WANDB_API_KEY=*** STEPS=3 https://***@host/x?token=***&n=1'
    """
    text = _WELL_KNOWN.sub(MASK, text)
    text = _USER_INFO.sub(MASK, text)
    text = _BEARER.sub(lambda m: f"{m[1]} {MASK}", text)
    return _ASSIGNED.sub(lambda m: f"{m[1]}{m[2]}{MASK}" if is_secret_name(m[1]) else m[0], text)
