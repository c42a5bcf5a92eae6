"""Models of timm, most of them with pretrained weights."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from litmaml.shown import listed


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
        try:
            self.body = _timm().create_model(
                name, pretrained=pretrained is True, num_classes=0, in_chans=channels, img_size=size
            )
            unknown = _load(self.body, pretrained, channels) if isinstance(pretrained, str) else []
        except Exception as error:  # of the network, of a file, or of an argument that the architecture does not take
            why = " ".join(str(error).split())[:300] or type(error).__name__
            remedy = ""
            if size is not None and "img_size" in why:
                remedy = "; leave size out, since it is made for no one size"
            elif pretrained is True:
                remedy = "; load its weights once where there is internet, or give their file as pretrained"
            raise ValueError(
                f"name: timm cannot make {name} with pretrained={pretrained}, channels={channels}, size={size} ({why})"
                + remedy
            ) from error
        if unknown:
            raise ValueError(
                f"pretrained: {pretrained!r} has no weights for {listed(unknown, 3)} of {name}, which would stay "
                "random; give a file with timm's own names (timm.create_model(name).state_dict())"
            )
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


def _load(body: nn.Module, file: str, channels: int) -> list[str]:
    """Load a body's weights from a file, and give the names of those that it has none for; timm would not tell."""
    missing: list[str] = []
    hook = body.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]  # torch leaves it untyped
        lambda module, keys: missing.extend(keys.missing_keys)
    )
    config: Any = body.pretrained_cfg
    own = {"file": file, "url": "", "hf_hub_id": None, "source": "", "custom_load": False}
    logger = logging.getLogger("timm.models._builder")
    level = logger.level
    logger.setLevel(logging.ERROR)  # of the classifier's weights, and in full where there are others
    try:
        importlib.import_module("timm.models").load_pretrained(body, {**config, **own}, 0, channels)
    finally:
        hook.remove()
        logger.setLevel(level)
    return missing


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
