"""Every inner optimizer, with the rule that the oracle moves a tensor by."""

from __future__ import annotations

from collections.abc import Callable

from unrolling import Rule
from update_rules import adadelta, adagrad, adam, adam_of_torch, adamax, rmsprop, sgd

from litmaml.inner import SGD, Adam, AdamW, HigherOptimizer, InnerOptimizer

# The eps are large, or the first steps would hardly depend on the gradient's length.
INNER: dict[str, tuple[Callable[[], InnerOptimizer], Rule]] = {
    "SGD": (lambda: SGD(0.1), sgd()),
    "momentum": (lambda: SGD(0.1, momentum=0.9), sgd(0.9)),
    "Nesterov": (lambda: SGD(0.1, momentum=0.9, nesterov=True), sgd(0.9, True)),
    "weight decay": (lambda: SGD(0.1, weight_decay=0.5), sgd(weight_decay=0.5)),
    "one rate": (lambda: SGD(0.1, learn="one"), sgd()),
    "one rate a tensor": (lambda: SGD(0.1, learn="tensor"), sgd()),
    "one rate a parameter": (lambda: SGD(0.1, learn="parameter"), sgd()),
    "one rate a step": (lambda: SGD(0.1, learn="one", per_step=True), sgd()),
    "one rate a tensor and step": (lambda: SGD(0.1, learn="tensor", per_step=True), sgd()),
    "one rate a parameter and step": (
        lambda: SGD(0.1, 0.5, True, 0.1, learn="parameter", per_step=True),
        sgd(0.5, True, 0.1),
    ),
    "Adam": (lambda: Adam(0.1, eps=0.1), adam_of_torch(0.1)),
    "Adam, one rate a tensor and step": (
        lambda: Adam(0.1, (0.5, 0.7), 0.1, 0.2, learn="tensor", per_step=True),
        adam_of_torch(0.1, 0.5, 0.7, 0.2),
    ),
    "AdamW": (
        lambda: AdamW(0.1, (0.5, 0.7), 0.1, 0.5),
        adam_of_torch(0.1, 0.5, 0.7, 0.5, decoupled=True),
    ),
    "AdamW, one rate a parameter": (
        lambda: AdamW(0.1, (0.5, 0.7), 0.1, 0.5, learn="parameter"),
        adam_of_torch(0.1, 0.5, 0.7, 0.5, decoupled=True),
    ),
    "higher SGD": (
        lambda: HigherOptimizer("torch.optim.SGD", {"lr": 0.1, "momentum": 0.9}),
        sgd(0.9),
    ),
    "higher Adam": (lambda: HigherOptimizer("torch.optim.Adam", {"lr": 0.1, "eps": 0.1}), adam(0.1)),
    "higher RMSprop": (
        lambda: HigherOptimizer("torch.optim.RMSprop", {"lr": 0.02, "eps": 0.1, "momentum": 0.5}),
        rmsprop(0.1, momentum=0.5),
    ),
    "higher Adagrad": (
        lambda: HigherOptimizer("torch.optim.Adagrad", {"lr": 0.1, "eps": 0.1, "initial_accumulator_value": 0.2}),
        adagrad(0.1, 0.2),
    ),
    "higher Adadelta": (
        lambda: HigherOptimizer("torch.optim.Adadelta", {"lr": 0.3, "eps": 0.1}, learn="one"),
        adadelta(0.1),
    ),
    "higher Adamax": (
        lambda: HigherOptimizer("torch.optim.Adamax", {"lr": 0.1, "eps": 0.1}, learn="one", per_step=True),
        adamax(0.1),
    ),
}
