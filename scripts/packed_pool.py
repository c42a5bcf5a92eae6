"""What a packed pool costs beside one in memory: time to open, memory of two processes, time to sample.

    OMP_NUM_THREADS=1 python scripts/packed_pool.py                      100,000 images of 84 x 84, 2.1 GB on the disk
    OMP_NUM_THREADS=1 python scripts/packed_pool.py --images 20000 --folder /tmp

The pool is of random bytes. Each process draws 5-way 1-shot tasks with 15 queries, 16 at a time; that from the file and
that from memory take turns, and times are the process's own, so that other processes matter little.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from litmaml.data import Episode, ImageFormat, ImagePool, ImageTable
from litmaml.data.packed_pool import write_pool
from litmaml.tasks import Split

TOGETHER, OF_A_CLASS = 1000, 500


class InMemory(ImageTable):
    """The same images, read into the process's own memory, as without packing."""

    def read_pool(self, split: Split) -> ImagePool:
        pool = super().read_pool(split)
        return replace(pool, pixels=pool.pixels.clone())


def pack(folder: Path, images: int) -> None:
    """Write a packed folder of random images, all for training but a few."""
    stream = torch.Generator().manual_seed(0)
    splits = {}
    for split, count in (("train", images), ("val", 5 * OF_A_CLASS), ("test", 5 * OF_A_CLASS)):
        shape = (TOGETHER, 3, 84, 84)
        pieces = (
            torch.randint(0, 256, (min(TOGETHER, count - first), *shape[1:]), dtype=torch.uint8, generator=stream)
            for first in range(0, count, TOGETHER)
        )
        path = folder / f"{split}.safetensors"
        classes = {f"{split} {k}": OF_A_CLASS for k in range(count // OF_A_CLASS)}
        write_pool(path, classes, shape[1:], pieces, [f"{k}.png" for k in range(count)], "")
        splits[split] = {"file": path.name, "bytes": path.stat().st_size, "sha256": ""}
    image_format = {"size": 84, "channels": 3, "fit": "squeeze", "white": None}
    index = {"form": "litmaml packed images 1", "image_format": image_format, "layout": "random", "splits": splits}
    (folder / "index.json").write_text(json.dumps(index))


def made(kind: type[ImageTable], folder: Path) -> ImageTable:
    """The tasks of a packed folder."""
    return kind(str(folder), ImageFormat(84, 3), train=Episode(ways=5, shots=1, queries=15))


def memory() -> dict[str, float]:
    """The memory of this process in MB: what it holds (Rss), and that with its part of what it shares (Pss)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) / 1024 for name, _, rest in (line.partition(":") for line in lines)}


def hold(kind: type[ImageTable], folder: Path, pipe: Connection) -> None:
    """A process that opens a pool, looks at every image, and tells what memory that took when it is asked."""
    before, tasks = memory(), made(kind, folder)
    tasks.load("train")
    int(tasks._pools["train"].pixels.numpy()[:, :, ::8].max())  # one byte of each page at least
    pipe.send("ready")
    pipe.recv()
    after = memory()
    pipe.send({name: after[name] - before[name] for name in ("Rss", "Pss")})


def memory_of_two(kind: type[ImageTable], folder: Path) -> Sequence[dict[str, float]]:
    """The memory of two processes that hold the pool at the same time."""
    context, pipes = multiprocessing.get_context("fork"), []
    for _ in range(2):
        here, there = context.Pipe()
        context.Process(target=hold, args=(kind, folder, there), daemon=True).start()
        pipes.append(here)
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send("tell")
    return [pipe.recv() for pipe in pipes]


def sampling(folder: Path, rounds: int) -> None:
    """Print times of sampling from the file and from memory, in turns."""
    kinds = {"file": made(ImageTable, folder), "memory": made(InMemory, folder)}
    for name, tasks in kinds.items():
        began = time.perf_counter()
        tasks.load("train")
        print(f"{name}: opened in {time.perf_counter() - began:.2f} s", flush=True)
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(rounds):
        for name, tasks in kinds.items():
            began = time.process_time()
            for batch in range(10):
                first = 16 * (10 * turn + batch)
                tasks.sample("train", range(first, first + 16), seed=0)
            times[name].append((time.process_time() - began) / 10)
    ratios = [one / other for one, other in zip(*times.values(), strict=True)]
    for name, seconds in times.items():
        print(
            f"{name}: {1000 * statistics.median(seconds):.2f} ms per batch of 16 tasks, first {1000 * seconds[0]:.2f}"
        )
    print(f"file / memory: {statistics.median(ratios):.3f} (median of {rounds} turns)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--folder", type=Path, default=None, help="where there is room for the images")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        folder = Path(scratch)
        pack(folder, arguments.images)
        size = (folder / "train.safetensors").stat().st_size / 2**20
        print(f"{arguments.images} images, {size:.0f} MB", flush=True)
        for name, kind in {"file": ImageTable, "memory": InMemory}.items():
            two = memory_of_two(kind, folder)
            told = ", ".join(f"Rss {each['Rss']:.0f} MB, Pss {each['Pss']:.0f} MB" for each in two)
            print(f"{name}, of each of two processes at once: {told}", flush=True)
        sampling(folder, arguments.rounds)


if __name__ == "__main__":
    main()
