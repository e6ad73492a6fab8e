"""JSON with one spelling for one value: what is hashed and what is stored."""

import json
import math
from typing import Any

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)


def canonical_json(value: Any) -> str:
    """ASCII, sorted keys, no blanks. What JSON does not know (NaN, infinity, paths, enums) becomes text.

    A broken header must not stop the row that tells of it.
    """
    try:
        return _ENCODER.encode(value)
    except ValueError:
        return _ENCODER.encode(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
