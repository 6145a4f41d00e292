"""What a study's JSON files hold: ``verdict.json`` and ``history.json``, as ``schema.json`` beside this file says."""

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of ``verdict.json``, and in its ``$defs`` that of ``history.json``."""
    content: dict[str, Any] = json.loads(files("actbench.inference.verdict").joinpath("schema.json").read_text())
    return content


def check_history(content: Any) -> None:
    """Refuse what is no history.

    Raises:
        ValueError: An entry is missing or not as the schema says; the message names it.
    """
    from jsonschema import Draft202012Validator  # here, for most of what is imported with this needs none

    validator = Draft202012Validator({"$ref": "#/$defs/history", "$defs": schema()["$defs"]})
    error = next(validator.iter_errors(content), None)
    if error:
        raise ValueError(f"{'.'.join(map(str, error.absolute_path)) or 'it'}: {error.message[:200]}")
