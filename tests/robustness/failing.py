"""Loggers that fail in the middle of a run."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch.loggers import Logger


class Failing(Logger):
    """Fails, or hangs, at the third line; it has no folder."""

    def __init__(self, how: str = "fail", prefix: str = "") -> None:
        super().__init__()
        self.how, self.prefix, self.lines, self.after = how, prefix, 0, 0

    @property
    def name(self) -> str:
        return "failing"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *arguments: Any, **named: Any) -> None: ...

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.lines += 1
        assert self.lines <= 3, "called again"
        if self.lines == 3 and self.how == "fail":
            raise ConnectionError("the network\nis gone")
        if self.lines == 3:
            time.sleep(3600)
