"""Time, memory and exactness of litmaml beside learn2learn, higher, TorchOpt, plain PyTorch and JAX: in one run.

    python scripts/benchmark.py                              everything, about eleven minutes on two cores
    python scripts/benchmark.py --workloads sinusoid-1 sampling
    python scripts/benchmark.py --model conv4 --steps 3 --tasks 8 --device cuda
    python scripts/benchmark.py --workloads omniglot-5 --compile all     with the minutes that its compiling takes

TorchOpt and JAX come with LITMAML_EXTRAS=dev,learn2learn,benchmark bash scripts/setup.sh; who is not there is named.
It prints tables and writes benchmark.json and benchmark.png to --out. Every contender computes the same outer gradient
from the same weights and tasks (first order, for comparison, another), which is checked in float64 before anything is
timed, where checking takes no minutes of compiling; then they take turns, each in a process of its own. Ratios are
medians over the rounds.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from benchmarks.suite import main

if __name__ == "__main__":
    main()
