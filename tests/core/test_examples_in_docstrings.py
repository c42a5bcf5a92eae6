"""The examples in the docstrings of what the field's questions are answered by."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest
import torch

import litmaml.inner
import litmaml.outer
from litmaml.inner import InnerOptimizer
from litmaml.inner.loop import InnerLoop
from litmaml.outer import OuterGradient
from litmaml.outer.loss import OuterLoss
from litmaml.outer.meta_gradient import MetaGradientOf

ANSWERS = (InnerOptimizer, OuterGradient, OuterLoss)
MODULES = [
    importlib.import_module(f"{room.__name__}.{found.name}")
    for room in (litmaml.inner, litmaml.outer)
    for found in pkgutil.iter_modules(room.__path__)
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_they_say_what_is_so(module: ModuleType) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        failed, tried = doctest.testmod(module, optionflags=doctest.FAIL_FAST)
    finally:
        torch.set_default_dtype(before)
    classes = [
        thing for thing in vars(module).values() if inspect.isclass(thing) and thing.__module__ == module.__name__
    ]
    answers = [
        thing
        for thing in filter(inspect.isclass, classes)
        if (issubclass(thing, ANSWERS) or thing in (InnerLoop, MetaGradientOf)) and thing.__name__[0] != "_"
    ]
    without = [thing.__name__ for thing in answers if ">>>" not in (thing.__doc__ or "")]
    assert without in ([], ["OuterGradient"])  # of which PathGradient is the one that has some
    assert failed == 0
    assert tried > 0 or not answers
