"""What is said of a name that stands for no class, or for none that an option takes."""

from __future__ import annotations

import difflib
import inspect
import sys
from typing import Any, get_args

from litmaml.runs.former_names import name_now


def no_class(key: str, name: str, hint: Any) -> str:
    """That an option takes no class of this name, and which was meant."""
    known = _known(hint)
    if why := _why_none(name, hint):
        return f"{key}: {why}"
    said = f"{key}: there is no class {name!r}"
    module, _, last = (now := name_now(name)).rpartition(".")
    if now != name and hasattr(sys.modules.get(module), last):
        return f"{said} any more; it is {now} now"
    near = difflib.get_close_matches(name.rpartition(".")[2], sorted(known), n=1, cutoff=0.6)
    if near:
        return f"{said}; did you mean {near[0]}?"
    if 0 < len(known) <= 12:
        return f"{said}; one of {', '.join(sorted(known))}"
    return said if module else f"{said}; one of your own is named by its import path, MODULE.{name}"


def other_kind(name: str, hint: Any) -> str:
    """That a class or function, by its import path, is not of the kind that is wanted, and which is; or nothing."""
    module, _, last = name.rpartition(".")
    wanted = " or ".join(dict.fromkeys(kind.__name__ for kind in _classes(hint)))
    if not wanted or not hasattr(sys.modules.get(module), last):
        return ""
    known = {kind.lower(): kind for kind in sorted(_known(hint))}
    near = difflib.get_close_matches(last.replace("_", "").lower(), known, n=1, cutoff=0.6)
    if near:
        return f"{name!r} is no {wanted}; did you mean {known[near[0]]}?"
    return f"{name!r} is no {wanted}" + (f"; one of {', '.join(known.values())}" if 0 < len(known) <= 12 else "")


def _known(hint: Any) -> set[str]:
    """The names of the classes that an option takes, beside those of the user's own."""
    return {
        kind.__name__
        for base in _classes(hint)
        for kind in _below(base)
        if not kind.__name__.startswith("_") and not inspect.isabstract(kind)
    }


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
    if found is not None or file is None or ours:
        return ""
    there = [name for name, part in vars(home).items() if callable(part)]
    near = difflib.get_close_matches(last, there, n=1, cutoff=0.6)
    return f"there is no {last!r} in {file}" + (f"; did you mean {near[0]}?" if near else "")


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
