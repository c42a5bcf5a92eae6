"""Reads the file that wandb writes offline: a LevelDB log, of a 7-byte header and records in blocks of 32 KiB."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import ArtifactRecord, Record

BLOCK, HEADER, FULL, LAST = 32768, 7, 1, 4


def records(path: Path) -> Iterator[Record]:
    """The records of a run, in the order written; a record may stand in parts, in several blocks."""
    data, place, parts = path.read_bytes(), HEADER, b""
    assert data.startswith(b":W&B")
    while place + HEADER <= len(data):
        if (left := BLOCK - place % BLOCK) < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if place + HEADER + length > len(data):
            return  # still being written
        parts += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (FULL, LAST):
            yield Record.FromString(parts)
            parts = b""


def wait_for_end(path: Path) -> None:
    """Until the whole run is in its file: wandb writes it in its own process, even after ``wandb.finish``."""
    for _ in range(300):
        if any(record.WhichOneof("record_type") == "exit" for record in records(path)):
            return
        time.sleep(0.1)
    raise TimeoutError(f"the run in {path} has not ended")


class OfflineRun:
    """What one process sent to W&B.

    ``config`` and ``summary`` as they are in the end, ``history`` a dict for each logged line, ``artifacts`` those
    that are models, ``tables`` those that are tables.
    """

    def __init__(self, path: Path) -> None:
        wait_for_end(path)
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.artifacts: list[ArtifactRecord] = []
        self.tables: list[ArtifactRecord] = []
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.id, self.project, self.resumable = record.run.run_id, record.run.project, record.run.resume
                self.start = record.run.start_time.ToNanoseconds()
            elif kind == "config":
                _put(self.config, record.config.update)
            elif kind == "summary":
                _put(self.summary, record.summary.update)
            elif kind == "history":
                self.history.append({})
                _put(self.history[-1], record.history.item)
            elif kind == "artifact":
                (self.artifacts if record.artifact.type == "model" else self.tables).append(record.artifact)

    def logged(self, name: str) -> list[Any]:
        """The values of a metric, in order."""
        return [line[name] for line in self.history if name in line]

    def stored(self, path: str) -> Path:
        """Where a file of a table lies until it is sent; the last one of this name."""
        contents = [content for table in self.tables for content in table.manifest.contents]
        return next(Path(content.local_path) for content in reversed(contents) if content.path == path)

    def table(self, name: str) -> list[dict[str, Any]]:
        """The rows of the table logged last under a name."""
        content = json.loads(self.stored(f"{name}.table.json").read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def own_environment() -> dict[str, str]:
    """For a process that is to start W&B's background process itself, not to share that of the tests."""
    return {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}


def offline_runs(folder: Path) -> list[OfflineRun]:
    """The runs in a run's folder, in the order in which they began."""
    runs = [OfflineRun(path) for path in (folder / "wandb").glob("offline-run-*/run-*.wandb")]
    return sorted(runs, key=lambda run: run.start)


def _put(values: dict[str, Any], items: Any) -> None:
    for item in items:
        inner, (*outer, last) = values, list(item.nested_key) or [item.key]
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = json.loads(item.value_json)
