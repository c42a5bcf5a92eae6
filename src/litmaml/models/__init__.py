"""Models that come with the framework; any other ``nn.Module`` is named by its class path."""

from litmaml.models.context_mlp import ContextMLP
from litmaml.models.conv4 import Conv4
from litmaml.models.lora import LoRA
from litmaml.models.mlp import MLP
from litmaml.models.resnet12 import ResNet12
from litmaml.models.timm import Timm
from litmaml.models.transformer import Transformer
from litmaml.models.vector import Vector
from litmaml.models.warped import Warped

__all__ = ["MLP", "ContextMLP", "Conv4", "LoRA", "ResNet12", "Timm", "Transformer", "Vector", "Warped"]
