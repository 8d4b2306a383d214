"""JSON schemas. Importing this module loads the package jsonschema; `rlcore.rewards.format` imports it at first use."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

try:
    import jsonschema  # type: ignore[import-untyped, unused-ignore]
    from referencing import Registry
    from referencing.exceptions import Unresolvable
except ImportError as error:
    raise RuntimeError("needs the package jsonschema (pip install 'rlcore[rewards]')") from error


@lru_cache(maxsize=256)
def validator(schema: str) -> Any:
    """Validator of a JSON schema. The draft is that of `$schema`, else 2020-12; `$ref` can only point inside of the
    schema.

    Raises:
        ValueError: not JSON, or not a valid schema.
    """
    value = json.loads(schema)
    kind = jsonschema.validators.validator_for(value, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(value)
    except jsonschema.SchemaError as error:
        raise ValueError(f"not a valid JSON schema: {error.message} at {error.json_path}") from error
    return kind(value, registry=Registry())


def first_error(schema: str, value: Any) -> str | None:
    """The first error in a value, with its place; None if the value is valid.

    Raises:
        ValueError: the schema is broken, or refers to another schema.
    """
    try:
        error = jsonschema.exceptions.best_match(validator(schema).iter_errors(value))
    except Unresolvable as unresolved:
        raise ValueError(f"the JSON schema refers to what is not in it: {unresolved}") from unresolved
    return None if error is None else f"{error.json_path}: {error.message}"[:300]
