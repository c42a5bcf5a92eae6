"""Models that come with the framework; any other ``nn.Module`` is named by its class path."""

from litmaml.models.conv4 import Conv4
from litmaml.models.mlp import MLP
from litmaml.models.vector import Vector

__all__ = ["MLP", "Conv4", "Vector"]
