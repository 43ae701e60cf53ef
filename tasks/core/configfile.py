"""A config.json as it is found: what of it can be used, and what counts as none at all.

Kinds do not hang on the config alone, so a broken one must not cost a model whose weights are sound.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

MAX_CONFIG_BYTES = 2_000_000  # both label maps of 21,841 classes take 1.6 MB; parsing takes up to 100 times a length
_BOM = b"\xef\xbb\xbf"


def parse_config(data: bytes) -> Mapping[str, object] | None:
    """Return the object that a config.json holds, or None where it cannot be used.

    Python writes NaN and Infinity, which JSON has not: they become None. A byte order mark is passed over. What cannot
    be written as JSON again, being nested too deeply or holding lone surrogates, cannot be used.
    """
    try:
        value = orjson.loads(orjson.dumps(_loads(data.removeprefix(_BOM))))
    except (ValueError, TypeError, RecursionError):  # not JSON; not to be written again; too deep for Python's parser
        return None
    return value if isinstance(value, dict) else None


def _loads(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data, parse_int=orjson.loads)  # which makes a float of 10**30, as it does in sound JSON
