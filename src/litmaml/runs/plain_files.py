"""Reading YAML and JSON that somebody else wrote: a small file stays small when it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

_LARGEST = 4 << 20
"""Bytes of a file; a hundred thousand class names are less."""
_LARGEST_YAML, _MOST_NODES = 256 << 10, 15_000
"""Bytes of a YAML file, and keys and values in it: it is read a thousand times slower than JSON, and an adapted
model's has some two kilobytes."""
_MOST_VALUES, _DEEPEST = 1_000_000, 50


class NotPlain(ValueError):
    """A file that is of another form than it should be; the message goes on after its name."""


def read_yaml(path: Path) -> Any:
    """The content of a YAML file of plain values.

    Raises:
        NotPlain: It is no YAML, is too large, or stands for too much.
    """
    try:
        content = yaml.load(read_text(path, _LARGEST_YAML), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise NotPlain(f"is no YAML of plain values ({_line(error)})") from error
    if count_values(content, _MOST_VALUES) > _MOST_VALUES:
        raise NotPlain(f"stands for more than {_MOST_VALUES} values, or is nested too deep")
    return content


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        NotPlain: It is no JSON, or is too large.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise NotPlain(f"is no JSON ({_line(error)})") from error


def read_text(path: Path, most: int = _LARGEST) -> str:
    """The text of a file of at most so many bytes.

    Raises:
        NotPlain: It is no file, is too large, or is not in UTF-8.
    """
    if not path.is_file():
        raise NotPlain("is no file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise NotPlain(f"has more than {most >> 10} kB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotPlain(f"is not in UTF-8 ({error.reason})") from error


def count_values(value: Any, most: int) -> int:
    """How many values a value stands for, each as often as it is referred to; above ``most`` where it is deeper than
    fifty within each other, or holds itself."""
    counted: dict[int, tuple[int, int]] = {}  # the values that one stands for, and how deep they are

    def count(value: Any, depth: int) -> tuple[int, int]:
        if not isinstance(value, dict | list | tuple | set):
            return 1, 0
        if id(value) not in counted:
            counted[id(value)] = most + 1, 0  # if it is met again while it is being counted, it holds itself
            parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
            found = [count(part, depth + 1) for part in parts] if depth <= _DEEPEST else [(most, 0)]
            height = 1 + max((height for _, height in found), default=0)
            total = 1 + sum(number for number, _ in found)
            counted[id(value)] = total if height <= _DEEPEST else most + 1, height
        return counted[id(value)]

    return count(value, 0)[0]


class _Loader(yaml.SafeLoader):
    """Without many values and deep nesting, and without merge keys: each multiplies what it merges, and the result
    holds it all."""

    depth = nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        if self.nodes > _MOST_NODES:
            raise yaml.composer.ComposerError(None, None, f"it has more than {_MOST_NODES} keys and values", None)
        if self.depth > _DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"it is nested more than {_DEEPEST} deep", None)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "it has merge keys (<<)", node.start_mark)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
