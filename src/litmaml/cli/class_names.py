"""What is said of a name that stands for no class, or for none that an option takes."""

from __future__ import annotations

import difflib
import inspect
import sys
from typing import Any, get_args

from litmaml.runs.former_names import name_now


def no_class(key: str, name: str, hint: Any) -> str:
    """That an option takes no class of this name, and which was meant."""
    known = {
        kind.__name__
        for base in _classes(hint)
        for kind in _below(base)
        if not kind.__name__.startswith("_") and not inspect.isabstract(kind)
    }
    if why := _why_none(name, hint):
        return f"{key}: {why}"
    said = f"{key}: there is no class {name!r}"
    module, _, last = (now := name_now(name)).rpartition(".")
    if now != name and hasattr(sys.modules.get(module), last):
        return f"{said} any more; it is {now} now"
    near = difflib.get_close_matches(name.rpartition(".")[2], sorted(known), n=1, cutoff=0.6)
    if near:
        return f"{said}; did you mean {near[0]}?"
    return f"{said}; one of {', '.join(sorted(known))}" if 0 < len(known) <= 12 else said


def _why_none(name: str, hint: Any) -> str:
    """Why what a name stands for cannot be taken, where it stands for something."""
    module, _, last = name.rpartition(".")
    if module not in sys.modules or not (home := sys.modules[module]):
        return ""
    wanted = " or ".join(dict.fromkeys(kind.__name__ for kind in _classes(hint)))
    found = getattr(home, last, None)
    if inspect.isfunction(found) and wanted:
        return no_maker(name, wanted)
    if isinstance(found, type) and wanted:
        return f"{name!r} is no {wanted}"
    file = getattr(home, "__file__", None)
    ours = module.partition(".")[0] in ("litmaml", "torch", "torchmetrics", "lightning")
    return "" if found is not None or file is None or ours else f"there is no {last!r} in {file}"


def no_maker(name: str, wanted: str) -> str:
    """That a function does not say that it makes what is wanted, and how it would."""
    said = {"Module": "nn.Module", "Env": "gymnasium.Env"}.get(wanted, wanted)
    last = name.rpartition(".")[2]
    return f"{name!r} is a function that does not say that it makes {said}; annotate it: def {last}(...) -> {said}"


def _classes(hint: Any) -> list[type]:
    """The classes that an option's type is made up of."""
    if isinstance(hint, type) and hint.__module__ != "builtins":
        return [hint]
    parts = [part for arg in get_args(hint) for part in (arg if isinstance(arg, list) else [arg])]
    return [kind for part in parts for kind in _classes(part)]


def _below(kind: type) -> set[type]:
    ours = kind.__module__.partition(".")[0] in ("litmaml", "torch", "torchmetrics", "lightning")
    found = {kind} if ours and kind.__module__ != "torch.nn.modules.module" else set()
    others: list[type] = type.__subclasses__(kind)
    return found.union(*map(_below, others))
