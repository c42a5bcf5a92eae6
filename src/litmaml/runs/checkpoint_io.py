"""Writing checkpoints so that a kill, a power cut or a full disk at any moment leaves a valid one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.fabric.plugins import CheckpointIO

from litmaml.runs.archive import NotTensors, check_archive
from litmaml.runs.checkpoint import checksum_file, checksums, load_plain, sha256


class DurableCheckpointIO(CheckpointIO):
    """Writes a checkpoint beside its target, syncs it and renames it; reading verifies its SHA-256.

    (Lightning's own goes by the temporary folder, often on another file system, where moving is copying.)

    The checksum stands in ``FILE.sha256``, which ``sha256sum -c`` reads. Two files cannot be renamed at once:
    while a checkpoint is being replaced, it names the new content and the old.
    """

    def __init__(self) -> None:
        self._written: set[Path] = set()  # folders, where they really lie

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a local file; on error an earlier one of this name is untouched.

        Raises:
            TypeError: There are storage options.
            OSError: It cannot be written.
            ValueError: It holds what no checkpoint may, so that no run could go on from it.
        """
        if storage_options is not None:
            raise TypeError("storage_options: DurableCheckpointIO writes local files and takes none")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = _write_beside(path, lambda file: torch.save(checkpoint, file))
        try:
            with fresh.open("rb") as file:
                check_archive(file, sums=False)
        except NotTensors as error:
            fresh.unlink()
            raise ValueError(
                f"checkpoint: {str(path)!r} could not be read again, and was not written: {error}; what callbacks and "
                "modules save of themselves may be tensors, numbers, texts, lists, sets and dictionaries"
            ) from error
        _put(path, fresh)
        self._written.add(path.parent.resolve())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a file back, verified. It may hold tensors and plain data only, whatever ``weights_only`` is.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged or holds more than plain data.
        """
        loaded: dict[str, Any] = load_plain(path, map_location)
        return loaded

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a file, if it lies where this run writes: its name may be from a checkpoint of somebody else's, and
        lead through a link of theirs."""
        if not any(Path(path).parent.resolve().is_relative_to(folder) for folder in self._written):
            return
        Path(path).unlink(missing_ok=True)
        checksum_file(Path(path)).unlink(missing_ok=True)


def _earlier(path: Path) -> list[str]:
    try:
        return checksums(path)
    except ValueError:  # damaged: it is about to be replaced
        return []


def link_checkpoint(source: Path, target: Path) -> None:
    """Make a checkpoint of this folder known by a second name too, as durably as one that is written.

    Raises:
        OSError: It cannot be written.
    """
    fresh = _unfinished(target)
    fresh.unlink(missing_ok=True)
    try:
        os.link(source, fresh)
    except OSError:  # no hard links on this file system
        fresh = _write_beside(target, lambda file: file.write(source.read_bytes()))
    _put(target, fresh)


def _put(path: Path, fresh: Path) -> None:
    """A file that was written beside its target takes the target's place, and its checksum that of the target's."""
    try:
        new, old = sha256(fresh), _earlier(path)
        _write_checksums(path, [new, *old])
        _rename(fresh, path)
    except OSError:
        fresh.unlink(missing_ok=True)  # it may be what fills the disk
        raise
    if old:
        _write_checksums(path, [new])


def _write_checksums(path: Path, digests: list[str]) -> None:
    lines = "".join(f"{digest}  {path.name}\n" for digest in digests)
    _rename(_write_beside(checksum_file(path), lambda file: file.write(lines.encode())), checksum_file(path))


def _write_beside(target: Path, write: Callable[[IO[bytes]], object]) -> Path:
    """A file in the same folder with all its bytes on the disk. One process writes, so one name will do."""
    fresh = _unfinished(target)
    fresh.unlink(missing_ok=True)  # it may be a link to another checkpoint, which writing would destroy
    noting = None
    try:
        with fresh.open("wb") as file:
            noting = _Noting(file)
            write(cast(IO[bytes], noting))
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        fresh.unlink(missing_ok=True)  # it may be what fills the disk
        cause = (noting and noting.error) or error
        raise OSError(f"checkpoint: cannot write {str(target)!r}: {cause}") from error
    return fresh


def _unfinished(target: Path) -> Path:
    return target.with_name(f".{target.name}.unfinished")


class _Noting:
    """Keeps the error of a file that torch's writer answers with words of its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _rename(fresh: Path, target: Path) -> None:
    os.replace(fresh, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too, has to be on the disk
    finally:
        os.close(folder)
