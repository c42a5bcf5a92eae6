"""What mkdocs.yml asks for beside docs/: the pages at the root, and docstrings as mkdocstrings reads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
AT_THE_ROOT = ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
"""Pages that GitHub looks for there."""
_FIELD = re.compile(r"([a-z]\w*(?:, [a-z]\w*)*): (?=\S)")


def on_files(files: Any, config: Any) -> Any:
    """Take the pages at the root into the site."""
    for name in AT_THE_ROOT:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links between docs/ and the root lead within the site, where all pages are in one folder."""
    if page.file.src_path in AT_THE_ROOT:
        return markdown.replace("](docs/", "](")
    return re.sub(rf"\]\(\.\./({'|'.join(map(re.escape, AT_THE_ROOT))})", r"](\1", markdown)


class Docstrings(griffe.Extension):
    """Has docstrings rendered as they are meant: their examples as code, their lines of fields as lists."""

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_rendered(obj.docstring.value)


def as_rendered(docstring: str) -> str:
    """The docstring with ``Examples:`` for ``Example:``, and an item of a list for each ``name: what it is``.

    Example:
        >>> print(as_rendered("Where it is.\\n\\nx: Across.\\ny: Up,\\n    or down."))
        Where it is.
        <BLANKLINE>
        - **x**: Across.
        - **y**: Up,
            or down.
    """
    lines: list[str] = []
    may_begin = False  # after an empty line, or among the items of a list
    for line in re.sub(r"^( *)Example:$", r"\1Examples:", docstring, flags=re.MULTILINE).splitlines():
        item = _FIELD.sub(r"- **\1**: ", line, count=1) if may_begin and _FIELD.match(line) else line
        may_begin = not line.strip() or item != line or (may_begin and line.startswith(" "))
        lines.append(item)
    return "\n".join(lines)
