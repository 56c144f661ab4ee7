"""JSON that others wrote, taken for what it says or refused: nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MOST_BYTES = 2**26
"""Of a JSON file. What this package writes is far below it; in memory it takes many times that."""


def read_json(path: Path, kind: str) -> Any:
    """Read a file of JSON in UTF-8.

    Args:
        path (Path): The file.
        kind (str): What the user expects there, for the messages: "no {kind} at ...".

    Returns:
        Any: What stands in it.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is longer than :data:`MOST_BYTES`, or what :func:`parse_json` refuses; the
            message names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {kind} at {path}")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(
            f"{path} is no {kind}: it has {size:,} bytes, at most {MOST_BYTES:,} are read"
        )
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no {kind}: {error}") from error


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Args:
        text (str or bytes): In UTF-8, if bytes.

    Returns:
        Any: What stands in it.

    Raises:
        ValueError: No JSON, one that is nested too deeply, a key that stands twice, of which either
            may be meant, or half of a character.

    Examples::

        >>> parse_json('{"a": [1, 2]}')
        {'a': [1, 2]}
        >>> parse_json('{"a": 1, "a": 2}')
        Traceback (most recent call last):
        ValueError: it is not JSON as it should be: the key 'a' stands twice
    """
    try:
        found = json.loads(text, object_pairs_hook=_without_doubles)
        if "\\u" in (text if isinstance(text, str) else text.decode()):
            json.dumps(found, ensure_ascii=False).encode()  # no half of a surrogate pair
    except RecursionError as error:
        raise ValueError("it is nested too deeply to be read") from error
    except UnicodeError as error:
        raise ValueError(f"it is not text in UTF-8: {error}") from error
    except ValueError as error:
        raise ValueError(f"it is not JSON as it should be: {error}") from error
    return found


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} stands twice")
        found[key] = value
    return found
