"""learn2learn, which is optional and whose full import asks for packages that nothing here needs."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

_PARTS = ("_version", "utils", "data", "nn", "optim", "algorithms")

_INSTALL = 'pip install --no-deps --config-settings="--build-option=build_ext" learn2learn==0.2.0'


def import_learn2learn() -> ModuleType:
    """learn2learn whole, or, where gym or torchvision is missing, its parts that need neither.

    The parts are utils, data, nn, optim and algorithms. A later ``import learn2learn`` finds the same reduced
    package.

    Raises:
        ImportError: if it is not installed or does not import, with the command that installs it.
    """
    if "learn2learn" in sys.modules:
        return sys.modules["learn2learn"]
    spec = importlib.util.find_spec("learn2learn")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"learn2learn is not installed. Install it with: {_INSTALL}")
    try:
        return importlib.import_module("learn2learn")
    except (ImportError, RuntimeError):
        # torchvision raises RuntimeError where it does not fit the installed torch. What was half imported
        # goes.
        _forget()
    package = importlib.util.module_from_spec(spec)
    sys.modules["learn2learn"] = package
    try:
        for part in _PARTS:
            setattr(package, part, importlib.import_module(f"learn2learn.{part}"))
        package.__version__ = package._version.__version__  # type: ignore[attr-defined]
    except ImportError as error:
        _forget()
        raise ImportError(f"learn2learn does not import ({error}). Install it with: {_INSTALL}") from error
    return package


def _forget() -> None:
    for name in [*sys.modules]:
        if name == "learn2learn" or name.startswith("learn2learn."):
            del sys.modules[name]
