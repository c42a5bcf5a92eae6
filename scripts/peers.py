"""What is silently wrong, or does not run, in other libraries of meta-learning: measured on what is installed.

    python scripts/peers.py                                  every claim of docs/peers.md
    python scripts/peers.py higher-adam-beta2 torchopt-zero-order
    python scripts/peers.py --list                           their names

A claim about a peer that is not installed is left out, with the command that installs it. Each prints its figures, and
whether it still holds: of another version it may not, and then the exit status is 1. All takes a minute on two cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from peer_claims.suite import main

if __name__ == "__main__":
    sys.exit(main())
