"""Fetching published files: complete and as published, or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.request
from pathlib import Path

from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

_PIECE = 1 << 16
_LARGEST = 1 << 26
"""Bytes that a published file can have."""
_PATIENCE = 60.0
"""Seconds without a byte after which a download is given up."""


def download(url: str, path: Path, md5: str) -> None:
    """Fetches a file, showing its progress, and puts it at ``path`` once it is complete and is what was
    published.

    Args:
        url: Where it is published.
        path: Where it is to lie. Missing folders are made.
        md5: The published checksum.

    Raises:
        OSError: if it cannot be fetched or its checksum is another; nothing is left at ``path`` then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.md5(usedforsecurity=False)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetching-") as folder:
        part = Path(folder) / path.name
        try:
            with (
                urllib.request.urlopen(url, timeout=_PATIENCE) as answer,
                part.open("wb") as file,
                Progress(*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn()) as progress,
            ):
                shown = progress.add_task(path.name, total=int(answer.headers.get("Content-Length", 0)) or None)
                while piece := answer.read(_PIECE):
                    if file.tell() > _LARGEST:
                        raise OSError(f"it has more than {_LARGEST} bytes")
                    file.write(piece)
                    digest.update(piece)
                    progress.advance(shown, len(piece))
        except OSError as error:
            raise OSError(
                f"cannot fetch {url} ({error}). Fetch it by other means and name its folder as root "
                "(--data.tasks.init_args.root=FOLDER)"
            ) from error
        if digest.hexdigest() != md5:
            raise OSError(
                f"{url} is not what was published: its MD5 sum is {digest.hexdigest()}, not {md5}. "
                f"It may have been cut off or replaced; try again"
            )
        os.replace(part, path)
