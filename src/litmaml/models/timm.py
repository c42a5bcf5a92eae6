"""Models of timm, most of them with pretrained weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn


class Timm(nn.Module):
    """A network of timm as the body, with a linear head of its own: images to logits (n, ways).

    The body is ``body.*``, the head ``head.*``. What the images have to be, see the pretrained weights' page: mostly
    224 x 224, normalised by ImageNet's mean (0.485, 0.456, 0.406) and standard deviation (0.229, 0.224, 0.225).

    Args:
        name: As in ``timm.list_models()``, such as resnet18.a1_in1k or vit_small_patch14_dinov2.lvd142m.
        ways: Number of logits.
        pretrained: Whether to begin with timm's weights of this name, from its cache or the internet; or a file that
            holds such weights. A learner that is made from a checkpoint takes the weights that are in it.
        channels: 1 for grey images, 3 for colour.
        size: Height and width of the images in pixels, for those that are made for one size, such as vision
            transformers; by default the pretrained one.

    Raises:
        ImportError: There is no timm, or no torchvision that fits torch.
        ValueError: timm has no model of this name, or cannot make it so.
    """

    def __init__(
        self, name: str, ways: int = 5, pretrained: bool | str = False, channels: int = 3, size: int | None = None
    ) -> None:
        super().__init__()
        if ways < 1:
            raise ValueError(f"ways: has to be at least 1, got {ways}")
        _check_name(name)
        self.name, self.ways, self.pretrained, self.channels, self.size = name, ways, pretrained, channels, size
        if isinstance(pretrained, str) and not Path(pretrained).is_file():
            raise ValueError(f"pretrained: has to be true, false or a file of weights, and there is no {pretrained!r}")
        file = {"file": pretrained} if isinstance(pretrained, str) else None
        try:
            self.body = _timm().create_model(
                name,
                pretrained=bool(pretrained),
                pretrained_cfg_overlay=file,
                num_classes=0,
                in_chans=channels,
                img_size=size,
            )
        except Exception as error:  # of the network, of a file, or of an argument that the architecture does not take
            why = " ".join(str(error).split())[:300] or type(error).__name__
            raise ValueError(
                f"name: timm cannot make {name} with pretrained={pretrained}, channels={channels}, size={size} ({why})"
                + (
                    "; load its weights once where there is internet, or give their file as pretrained"
                    * bool(pretrained)
                )
            ) from error
        self.head = nn.Linear(getattr(self.body, "head_hidden_size", None) or self.body.num_features, ways)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits

    @classmethod
    def of_record(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments when a file names this class: nothing is loaded for it, since its weights come with it."""
        if "name" in arguments:  # unless another was typed
            _check_name(arguments["name"])
        return {**arguments, "pretrained": False}


def _check_name(name: Any) -> None:
    """Refuse what is no plain name of timm's own list: some names are of places to load code or weights from."""
    if not isinstance(name, str) or not name.replace(".", "").isidentifier() or not _timm().is_model(name):
        raise ValueError(
            f"name: timm has no model {str(name)[:80]!r}; see timm.list_models(), such as resnet18 (names of places, "
            "such as hf-hub:..., are not taken)"
        )


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ImportError(f"litmaml.models.Timm needs timm ({error}): pip install 'litmaml[timm]'") from error
    except RuntimeError as error:  # such as: operator torchvision::nms does not exist
        raise ImportError(
            f"litmaml.models.Timm needs a torchvision that fits torch ({' '.join(str(error).split())[:100]}): torch "
            "2.N goes with torchvision 0.(N + 15), both for CPUs or both for CUDA; pip install 'litmaml[timm]' with "
            "the index that torch came from"
        ) from error
