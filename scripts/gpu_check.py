#!/usr/bin/env python
"""Whether a GPU computes what the CPU computes, and how fast: outer gradients, precisions, every test that needs one.

    python scripts/gpu_check.py                          begins nothing after 450 seconds, downloads nothing
    python scripts/gpu_check.py --data data/omniglot     with fit and the paper's training, on Omniglot's archives
    python scripts/gpu_check.py --device cpu --small     the same program in seconds, where there is no GPU

Needs torch, 2.7 or newer, and this folder, not installed; the part of the tests needs the program's packages and
pytest besides. It prints a table and writes one JSON file, after every case anew: a run that is cut off tells what it
has found by then. A case that raises is recorded with its traceback. The exit status is 0 where all parts agree.
"""

from __future__ import annotations

import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "src"):
    sys.path.insert(0, str(folder))

from gpu_checks.suite import main  # noqa: E402 - found by the two folders above

if __name__ == "__main__":
    sys.exit(main(description=__doc__ or ""))
