"""Classification tasks of two to four classes, with one to three examples of each."""

from __future__ import annotations

from typing import Any

import torch
from sets import Sets
from torch import Tensor

from litmaml.tasks import Batch, Split, Tasks, map_batches


class Clouds(Sets):
    """Points about the centres of a task's own classes, so few classes and many examples have shapes in common."""

    def _task(self, number: int, stream: Any) -> Tasks:
        ways, shots = int(stream.choice([2, 3, 4])), int(stream.choice([2, 3]))
        centres = torch.from_numpy(stream.standard_normal((ways, 4)))

        def batch(each: int) -> Batch:
            labels = torch.arange(ways).repeat(each)
            noise: Tensor = 0.7 * torch.from_numpy(stream.standard_normal((ways * each, 4)))
            return Batch((centres[labels] + noise)[None], labels[None])

        return Tasks((batch(shots),), batch(self.queries), torch.tensor([number]))

    def render(self, tasks: Tasks) -> Tasks:
        dtype = torch.get_default_dtype()
        return map_batches(lambda batch: batch._replace(inputs=batch.inputs.to(dtype)), tasks)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return {"tasks": "Clouds", "split": split}
