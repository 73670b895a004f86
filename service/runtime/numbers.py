"""Numbers in headers: JSON in one line, with few digits."""

import json
from typing import Any


def compact_json(value: Any, digits: int) -> str:
    """JSON in one line. digits: significant ones of each float, since samples may be of any scale."""
    return json.dumps(_rounded(value, digits), separators=(",", ":"))


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each, digits) for each in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
