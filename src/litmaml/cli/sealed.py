"""Text of strangers on its way through the command line's parser, which must not read it.

The parser takes a text for YAML, for the name of a file, for null. So it is given a word that means nothing in place
of each text that a checkpoint records, and the text itself comes back when an object is made or shown.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any

_TEXTS: dict[str, str] = {}


def seal(text: str) -> str:
    """The word for a text: the same for the same text."""
    for word, known in _TEXTS.items():
        if known == text:
            return word
    word = f"recorded_{secrets.token_hex(8)}"
    _TEXTS[word] = text
    return word


def unseal(value: Any) -> Any:
    """The value with the texts in place of their words, in lists and mappings too."""
    if isinstance(value, str):
        return _TEXTS.get(value, value)
    if isinstance(value, os.PathLike):
        text = _TEXTS.get(os.fspath(value))
        return value if text is None else type(value)(text)  # type: ignore[call-arg]  # every path takes its text
    if isinstance(value, Mapping) and type(value) is dict:
        return {key: unseal(part) for key, part in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(unseal(part) for part in value)
    return value
