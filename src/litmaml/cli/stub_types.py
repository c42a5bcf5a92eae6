"""Where jsonargparse looks for the types of functions that tell none themselves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jsonargparse import _stubs_resolver


def look_up_types() -> None:
    """Let it look in the folders of this process, before it asks another Python for its own.

    That one would import ``json`` from the current folder, or from that of a configuration: code of whoever made it.
    """
    if _stubs_resolver.stubs_resolver is None:
        folders = [Path(folder) for folder in sys.path if folder]
        here = _stubs_resolver.tc.get_search_context(search_path=folders)  # type: ignore[attr-defined]  # by another name
        resolver: Any = _stubs_resolver.StubsResolver(search_context=here)
        _stubs_resolver.stubs_resolver = resolver
