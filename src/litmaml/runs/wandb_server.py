"""Which W&B server is asked, with the user's key: never one that a stranger's folder names."""

from __future__ import annotations

import configparser
import os
import warnings
from pathlib import Path

from litmaml.shown import one_line

_PUBLISHED = "https://api.wandb.ai"


def keep_to_own_server() -> None:
    """Ask the user's own server, whatever ``wandb/settings`` of the current folder says, which W&B reads too.

    That folder may be a run that somebody else made: the key would go to whom it names.
    """
    if os.environ.get("WANDB_BASE_URL"):
        return
    here = Path(os.environ.get("WANDB_DIR") or ".")
    own = _server(Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser() / "settings")
    for folder in ("wandb", ".wandb"):
        named = _server(here / folder / "settings")
        if named and named != (own or _PUBLISHED):
            os.environ["WANDB_BASE_URL"] = own or _PUBLISHED
            warnings.warn(
                f"{one_line(str(here / folder / 'settings'))}: names the W&B server {one_line(named)}, which is not "
                f"asked, since that file may be somebody else's; set WANDB_BASE_URL if it is yours",
                stacklevel=2,
            )
            return


def _server(file: Path) -> str:
    """The server that a settings file names, or nothing."""
    settings = configparser.ConfigParser(interpolation=None)
    try:
        if not file.is_file():
            return ""
        settings.read_string(file.read_bytes()[: 1 << 16].decode("utf-8", errors="replace"))
    except (OSError, configparser.Error):
        return ""
    return settings.get("default", "base_url", fallback="").rstrip("/")
