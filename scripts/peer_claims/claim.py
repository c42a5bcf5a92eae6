"""What a claim about another library is."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from litmaml.data.interop import import_learn2learn
from litmaml.randomness import global_generators_seeded

Figures = dict[str, float]
"""What was measured, by what it is called in a printed line."""
Measure = Callable[[], Figures]


@dataclass(frozen=True)
class Peer:
    """A library: the version that docs/peers.md is about, how it is installed, and what is claimed about it."""

    name: str
    version: str
    module: str
    install: str
    claims: dict[str, Claim] = field(default_factory=dict)

    def claim(
        self, holds: Callable[[Figures], bool], needs: tuple[str, ...] = (), processes: int = 1
    ) -> Callable[[Measure], Measure]:
        """Let a function be a claim, called as the function is; its first line says what is claimed.

        Args:
            holds: Whether the figures show it.
            needs: Modules that it imports beside the peer's.
            processes: How many it starts.
        """

        def added(measure: Measure) -> Measure:
            name = measure.__name__.replace("_", "-")
            self.claims[name] = Claim(self, measure, holds, needs, processes)
            return measure

        return added


@dataclass(frozen=True)
class Claim:
    """Something about a peer, and what shows it."""

    peer: Peer
    measure: Measure
    holds: Callable[[Figures], bool]
    needs: tuple[str, ...]
    processes: int

    @property
    def says(self) -> str:
        """The claim in a sentence."""
        return (self.measure.__doc__ or "").partition("\n")[0]

    def missing(self) -> str:
        """Why it cannot be measured here, with what installs the peer; nothing where it can."""
        try:
            if self.peer.module == "learn2learn":
                import_learn2learn()
            for module in (self.peer.module, *self.needs):
                importlib.import_module(module)
        except Exception as error:  # also what an import of another torch's torchvision raises
            return f"{type(error).__name__}: {error}; {self.peer.install}"
        return ""

    def installed(self) -> str:
        """The version of the peer that is there."""
        return importlib.metadata.version(self.peer.name)

    def figures(self) -> Figures:
        """Measure, in float64 and from known random numbers; both are put back."""
        dtype = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float64)
            with global_generators_seeded(np.random.default_rng(0)):
                return self.measure()
        finally:
            torch.set_default_dtype(dtype)
