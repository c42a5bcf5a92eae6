"""What the outer loop trains beside the model's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from litmaml.weights import Params


class Learnt(nn.Module):
    """Tensors that the inner loop owns and the outer loop trains, by names that may hold dots."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps
        self.names: list[str] = []
        self._per_step: list[str] = []

    def add(self, name: str, start: Tensor, per_step: bool) -> None:
        """Begin with these values; ``per_step``: they have a row for each inner step."""
        self.names.append(name)
        self.register_parameter(_key(name), nn.Parameter(start.clone()))
        if per_step:
            self._per_step.append(_key(name))

    def __getitem__(self, name: str) -> Tensor:
        found: Tensor = self._parameters[_key(name)]  # type: ignore[assignment]  # none of them is None
        return found

    def values(self) -> Params:
        """The tensors as they stand."""
        return {name: self[name] for name in self.names}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # Of a checkpoint trained with another number of steps: cut its rows, or repeat the last one.
        for key in self._per_step:
            saved, here = state_dict.get(prefix + key), self._parameters[key]
            if saved is not None and here is not None and saved.shape[1:] == here.shape[1:] and len(saved) != len(here):
                state_dict[prefix + key] = saved[torch.arange(len(here)).clamp(max=len(saved) - 1)]
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def _key(name: str) -> str:
    """A parameter's name may hold no dot."""
    return name.replace(".", "/")
