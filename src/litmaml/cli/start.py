"""Where ``litmaml`` starts: what needs no torch is answered before it is imported."""

from __future__ import annotations

import gc
import sys

from litmaml.cli.commands import answered


def main() -> None:
    """Run the command line as it was called."""
    if not answered(sys.argv[1:]):
        # Some thousand modules come, and stay. To search them for garbage takes a second while they come, and another
        # at the end. What comes later is still searched there: a file that somebody's callback leaves open is
        # written to its end.
        gc.disable()
        from litmaml.cli.main import main as run

        gc.freeze()
        gc.enable()
        run()
