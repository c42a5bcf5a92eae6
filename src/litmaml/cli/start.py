"""Where ``litmaml`` starts: what needs no torch is answered before it is imported."""

from __future__ import annotations

import sys

from litmaml.cli.commands import answered


def main() -> None:
    """Run the command line as it was called."""
    if not answered(sys.argv[1:]):
        from litmaml.cli.main import main as run

        run()
