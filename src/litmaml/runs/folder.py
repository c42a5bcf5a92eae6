"""The folder of a run: what lies where, and how a checkpoint is named on the command line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from litmaml.runs.checkpoint import read_checkpoint
from litmaml.runs.owner import OWNER, FolderInUse, living_owner
from litmaml.runs.paths import expanded

CHECKPOINTS = "checkpoints"
BEST = "best.ckpt"
LAST = "last.ckpt"
DEFAULT_FOLDER = "runs/latest"


def local_folder(named: str) -> Path:
    """The folder that ``trainer.default_root_dir`` names, with ~ and $VARIABLES put in.

    Raises:
        ValueError: It is no folder of this machine.
    """
    if "://" in named:
        raise ValueError(
            f"trainer.default_root_dir: has to be a folder, got {named!r}; checkpoints that survive a kill take a file "
            "system: mount the bucket, or copy the run there when it has ended"
        )
    return expanded(named)


def resolve_checkpoint(named: str, folder: Path, resume: bool, argument: str = "ckpt_path") -> Path:
    """The checkpoint that is named on the command line.

    Every process of a run comes to the same file: none writes before all have met.

    Args:
        named: A file, the folder of a run (its last checkpoint to resume, its best one otherwise), ``RUN/best`` or
            ``RUN/last``, or ``best`` or ``last`` of the run in ``folder``. Where the last one is damaged, the newest
            that is not; where there is no best one, as without a validation, the last.
        folder: The run's folder, ``trainer.default_root_dir``.
        resume: Whether training goes on from it.
        argument: What the user called it, for the errors.

    Raises:
        FileNotFoundError: There is no such checkpoint; the message says what there is.
        ValueError: The last checkpoint is damaged, and so are all others.
    """
    path = expanded(named)
    if path.is_file():
        return path
    if named in ("best", "last"):
        wanted = folder / CHECKPOINTS / f"{named}.ckpt"
    elif path.is_dir():
        path = path.parent if path.name == CHECKPOINTS else path
        wanted = path / CHECKPOINTS / (LAST if resume else BEST)
    elif path.name in ("best", "last") and path.parent.is_dir():
        wanted = path.parent / CHECKPOINTS / f"{path.name}.ckpt"
    else:
        raise FileNotFoundError(
            f"{argument}: {named!r} is neither a file, a run's folder, RUN/best, RUN/last, 'best' nor 'last' (of "
            "--trainer.default_root_dir)"
        )
    there = checkpoints_in(wanted.parent.parent)
    if wanted.name == LAST and there:
        return _newest_valid(there, argument)
    if there and not os.path.lexists(wanted):
        last = _newest_valid(there, argument)
        rank_zero_info(f"{argument}: {wanted.parent.parent} has no best checkpoint, so no validation: using {last}")
        return last
    return existing(wanted, argument)


def existing(checkpoint: Path, argument: str) -> Path:
    """The checkpoint itself, if it is a file.

    Raises:
        FileNotFoundError: It is none; the message says which there are.
    """
    if checkpoint.is_file():
        return checkpoint
    others = ", ".join(str(path) for path in checkpoints_in(checkpoint.parent.parent) if path.is_file())
    wrong = f"{checkpoint} is no file" if os.path.lexists(checkpoint) else f"there is no {checkpoint}"
    raise FileNotFoundError(f"{argument}: {wrong}; there is {others or 'no checkpoint at all'}")


def checkpoints_in(folder: Path) -> list[Path]:
    """All that is called a checkpoint of the run in a folder."""
    return sorted((folder / CHECKPOINTS).glob("*.ckpt"))


def _newest_valid(checkpoints: list[Path], argument: str) -> Path:
    # By name before time, which copying changes: last.ckpt is never older than the others.
    newest_first = sorted(checkpoints, key=lambda p: (p.name == LAST, p.lstat().st_mtime_ns), reverse=True)
    skipped: list[str] = []
    for path in newest_first:
        try:
            read_checkpoint(path)
        except (ValueError, FileNotFoundError) as error:
            skipped.append(str(error))
            continue
        if skipped:
            rank_zero_info("\n".join([*(f"skipped: {reason}" for reason in skipped), f"using {path}"]))
        return path
    raise ValueError(f"{argument}: there is no valid checkpoint:\n" + "\n".join(skipped))


def folder_of(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to: results of a test go there."""
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else checkpoint.parent


def set_aside(folder: Path) -> Path | None:
    """Make room for a new run: an earlier one in this folder moves to the first free FOLDER.1, FOLDER.2...

    Where the folder is a link, what it points to moves, and the new run lies where the link points.

    Raises:
        ValueError: It holds the folder that the program runs in, so more than a run.
        FolderInUse: A run is going on in a folder within it, which would move along.
    """
    if not checkpoints_in(folder):
        return None
    real = folder.resolve()
    if Path.cwd().is_relative_to(real):
        raise ValueError(
            f"trainer.default_root_dir: {str(folder)!r} has the checkpoints of an earlier run and cannot be moved, as "
            "it holds the current folder; name a folder of its own for the run, such as runs/NAME"
        )
    for inner in (file.parent for file in real.rglob(OWNER) if file.parent != real):
        if owner := living_owner(inner):
            raise FolderInUse(
                f"trainer.default_root_dir: {str(folder)!r} has the checkpoints of an earlier run and cannot be moved, "
                f"as {str(inner)!r} in it is in use by another run ({owner}); wait for its end, stop it, or name "
                "another folder"
            )
    number = next(n for n in range(1, 10**6) if not os.path.lexists(real.with_name(f"{real.name}.{n}")))
    moved = real.rename(real.with_name(f"{real.name}.{number}"))
    return moved if folder.is_symlink() else folder.with_name(moved.name)


def check_places(folder: Path, logs: Iterable[str | None] = ()) -> None:
    """Refuse a run's folder in which something else lies where the run is to write: before hours are spent.

    A folder that somebody else made may have links in it, by which other runs' files would be written over.

    Args:
        folder: The run's folder, which may be a link itself.
        logs: Folders of its loggers.

    Raises:
        ValueError: Naming it, and what to do.
    """
    written = [folder / CHECKPOINTS, folder / "wandb"]
    for log in (Path(log) for log in logs if log):
        written += [part for part in (log, *log.parents) if folder in part.parents]
        if folder in log.parents and (link := next(filter(_is_link, log.glob("*")), None)):
            raise ValueError(
                f"trainer.default_root_dir: {str(link)!r} is a link, and a logger writes there; move it away"
            )
    for place in written:
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise ValueError(
                f"trainer.default_root_dir: {str(place)!r} is a link or a file, and a run writes into folders of its "
                f"own; move it away, or make {str(folder)!r} itself the link"
            )
    if odd := next((file for file in written[0].glob("*.ckpt*") if file.is_dir()), None):
        raise ValueError(f"trainer.default_root_dir: {str(odd)!r} is a folder in a checkpoint's place; move it away")


def _is_link(file: Path) -> bool:
    return file.is_symlink() or (file.is_file() and file.stat().st_nlink > 1)


def put_back(earlier: Path, folder: Path) -> bool:
    """Let a run that was set aside lie in its folder again, in place of a new one that failed before it had done
    anything. For the folder's owner.

    Returns:
        Whether it does: not where there is a checkpoint or another run in it by now.
    """
    real = folder.resolve()
    owners = [file for file in real.rglob(OWNER) if file.parent != real]
    if owners or next(real.rglob("*.ckpt"), None) is not None or not earlier.is_dir():
        return False
    failed = real.with_name(f".{real.name}.failed-{os.getpid()}")
    try:
        real.rename(failed)
        earlier.resolve().rename(real)
    except OSError:  # somebody was faster; nothing is lost
        return False
    shutil.rmtree(failed, ignore_errors=True)
    return True


def remove_unfinished(folder: Path) -> None:
    """Delete what a kill left half-written. For the folder's owner, since nobody else writes there."""
    for place in (folder, folder / CHECKPOINTS):
        for file in place.glob(".*.unfinished*"):
            file.unlink(missing_ok=True)
