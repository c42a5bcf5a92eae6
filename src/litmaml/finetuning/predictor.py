"""A network as what it is used for: a function from inputs to predictions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from litmaml.inner.model_call import Output, predictions_of
from litmaml.tasks import Tree


class Predictor(nn.Module):
    """A network that is called with its inputs in one piece and gives its predictions alone.

    Args:
        network: Any module.
        output: Which of its outputs are the predictions, where it returns several; as in meta-training.

    Example:
        >>> import torch
        >>> twice = Predictor(nn.LSTM(3, 2, batch_first=True), output="1.0")
        >>> twice(torch.zeros(5, 4, 3)).shape
        torch.Size([1, 5, 2])
    """

    def __init__(self, network: nn.Module, output: Output = None) -> None:
        super().__init__()
        self.network, self.output = network, output

    def forward(self, inputs: Tree) -> Tensor:
        """Predictions (n, ...) of a tensor, a dict or a tuple: the network gets the parts by keyword or position."""
        whole = dict(inputs) if isinstance(inputs, Mapping) else inputs  # such as what a tokenizer gives
        predictions: Tensor = predictions_of(self.network, whole, self.output)
        return predictions
