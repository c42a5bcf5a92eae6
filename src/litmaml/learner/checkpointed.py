"""What a learner's checkpoints hold beside its weights, and how a learner is made and loaded of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torchmetrics import Metric

from litmaml.inner.loop import InnerLoop
from litmaml.learner.experience import Experience
from litmaml.learner.recipe import arguments_of, not_warned_of, recipe_of, warn_not_rebuilt
from litmaml.learner.round_trip import not_in_checkpoints, not_made_again, others_of
from litmaml.learner.trial.modes import in_evaluation, put
from litmaml.outer import OuterGradient, OuterLoss
from litmaml.outer.convolution_choice import ConvolutionChoice
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.runs.checkpoint import FORMAT, FORMAT_KEY, check_form, read_checkpoint
from litmaml.runs.weights_record import (
    WEIGHTS_KEY,
    check_kinds,
    check_ties,
    check_weights,
    evaluated_of_model,
    evaluated_parts,
    other_modes,
    record_of,
    restore,
    with_own_loss,
)
from litmaml.shown import one_line
from litmaml.tasks import Tasks

_FITTING_KEY, _CONVOLUTIONS_KEY = "litmaml_fitting", "litmaml_convolutions"
_LIVE = frozenset({"test_inner_steps", "on_nonfinite", "max_skipped", "lr_scheduler_interval", "rates_lr", "baselines"})
"""Arguments that are read whenever they are needed, so that they may be set in a learner that is there."""


class CheckpointedLearner(LightningModule, ABC):
    """A learner whose checkpoints hold the recipes of its parts, and their modes, beside the weights.

    Lightning calls these methods by their names, so they stand in a class of their own below the learner's.
    """

    inner_loop: InnerLoop
    outer_gradient: OuterGradient
    outer_loss: OuterLoss
    experience: Experience | None
    meta_gradient: MetaGradientOf
    convolutions: ConvolutionChoice
    metrics: nn.ModuleDict
    _evaluated: list[str]
    _seen: dict[bool, Tasks]
    """A task of training and one of evaluation, one of which the record is compared on."""
    _recorded: dict[str, Any] | None = None
    """What the record was found to make again."""
    _arguments: frozenset[str] = frozenset()
    """The constructor's that are recorded; none before the learner is whole."""

    @abstractmethod
    def __init__(self) -> None:
        """Set the parts above, then call ``record``."""
        super().__init__()

    def record(self, plain: Mapping[str, Any]) -> None:
        """Begin the record: the parts' recipes, and the constructor's other arguments by name."""
        self._evaluated, self._seen, self.convolutions = in_evaluation(self.inner_loop), {}, ConvolutionChoice()
        parts = {
            "model": self.inner_loop.model,
            "inner_optimizer": self.inner_loop.optimizer,
            "outer_gradient": self.outer_gradient,
            "loss": self.inner_loop.loss,
            "outer_loss": self.outer_loss,
            "experience": self.experience,
            "metrics": self.metrics_by_name,
        }
        self.save_hyperparameters(recipe_of(parts) | dict(plain))
        self._arguments = frozenset(parts) | frozenset(plain)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse what would change nothing but how the learner looks; keep the record true of what may be set.

        Raises:
            AttributeError: The argument has gone into parts that the constructor made.
        """
        if name in self._arguments:
            if name not in _LIVE:
                raise AttributeError(
                    f"{name}: is fixed in a learner that is made, got {one_line(value)[:80]}; make another learner, of "
                    f"learner.inner_loop.model where its weights are to go on: MetaLearner(model, ..., {name}=...)"
                )
            self.hparams[name] = value
        super().__setattr__(name, value)

    def remember(self, recipe: Mapping[str, Any]) -> None:
        """Take the command line's own record of the arguments: it also has those that no object keeps.

        The command line itself logs its whole configuration.
        """
        self.save_hyperparameters(dict(recipe), logger=False)

    def check_record(self) -> None:
        """Take out of the record what it would not make again: to load another model is worse than to load none."""
        now = not_in_checkpoints(self.inner_loop) | dict.fromkeys(self.evaluated, "in evaluation")
        if self._recorded is not None and not others_of(self._recorded, now):
            return
        parts, metrics = (self.inner_loop, self.outer_gradient), self.metrics_by_name
        seen = self._seen.get(True, self._seen.get(False))
        for name, why in not_made_again(*parts, metrics, self.hparams, seen, self.evaluated).items():
            del self.hparams[name]
            warn_not_rebuilt(name, why)
        self._recorded = now

    @property
    def metrics_by_name(self) -> dict[str, Metric]:
        """The metrics, which lose their type in a ModuleDict, with which they move to the learner's device."""
        return cast(dict[str, Metric], dict(self.metrics.items()))

    # Modes

    def train(self, mode: bool = True) -> Self:
        if self.training and not mode:
            self._evaluated = in_evaluation(self.inner_loop)
        return super().train(mode)

    @property
    def evaluated(self) -> list[str]:
        """The parts of the inner loop that are in evaluation while it trains, such as frozen batch norms."""
        return in_evaluation(self.inner_loop) if self.training else self._evaluated

    @evaluated.setter
    def evaluated(self, names: Sequence[str]) -> None:
        self._evaluated = [*names]
        if self.training:
            put(self.inner_loop, names)

    def _restore_modes(self, saved: Mapping[str, Any], told: bool) -> None:
        """Put the parts into the modes that they had in training."""
        evaluated = evaluated_parts(self.inner_loop, saved)
        if evaluated is None:
            return
        if told and (other := other_modes(self.evaluated, evaluated)):
            rank_zero_info(f"{other}: each part takes the mode that it has in the checkpoint")
        self.evaluated = evaluated

    # Files

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[FORMAT_KEY], checkpoint[WEIGHTS_KEY] = FORMAT, record_of(self.inner_loop, self.evaluated)
        self.check_record()  # training may not have begun, or a callback have changed what no weight holds
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = dict(self.hparams)
        if state := self.meta_gradient.fitting.state():
            checkpoint[_FITTING_KEY] = state
        if chosen := self.convolutions.state():
            checkpoint[_CONVOLUTIONS_KEY] = chosen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Of Lightning, which reads the file by itself and loads it into a learner that is there already."""
        check_form(checkpoint, "the file")
        check_weights(self.inner_loop.model, checkpoint)
        self._restore_modes(checkpoint, told=self.trainer.state.fn == TrainerFn.FITTING)
        self.meta_gradient.fitting.take(checkpoint.get(_FITTING_KEY))
        self.convolutions.take(checkpoint.get(_CONVOLUTIONS_KEY))

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # never a pickle, a hparams file or a url
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", **overrides: Any
    ) -> Self:
        """The learner of a checkpoint: model, inner loop and outer gradient made anew, weights and rates loaded.

        Args:
            checkpoint_path: A file that ``fit`` wrote.
            map_location: The device to load to.
            overrides: Arguments of ``MetaLearner`` to use instead of those recorded, such as ``test_inner_steps=10``,
                or ``model=...`` for a model that the checkpoint could not describe.

        Raises:
            ValueError: The file is no such checkpoint, holds another architecture, or other weights are frozen or one
                in a model that is given.
        """
        saved = read_checkpoint(checkpoint_path, map_location)
        arguments = arguments_of(cls, saved, overrides)
        if "model" not in overrides:
            restore(arguments["model"], saved)
            put(arguments["model"], evaluated_of_model(saved))
        else:
            check_ties(arguments["model"], saved)
        recorded = {name: saved["hyper_parameters"][name] for name in arguments.keys() - overrides.keys()}
        with not_warned_of(recorded):
            learner = cls(**arguments)
        # What an object does not keep of its arguments is known of the record.
        learner.save_hyperparameters({name: recorded[name] for name in recorded.keys() - learner.hparams.keys()})
        if "model" in overrides and "fast_weights" not in overrides:  # which says what to adapt
            check_weights(arguments["model"], saved)  # by now the patterns have frozen theirs, as in the one saved
        learner.load_state_dict(saved["state_dict"])
        learner._restore_modes(saved, told="model" in overrides)
        return learner.to(map_location)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        own = self.state_dict()
        state_dict = with_own_loss(state_dict, own, self.inner_loop.loss)
        check_kinds(own, state_dict)
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            what = one_line(" ".join(str(error).split()))[:500]
            raise ValueError(
                "the checkpoint holds the weights of another architecture than the model or inner optimizer that is "
                f"configured; leave these out of the configuration to take the checkpoint's own. {what}"
            ) from error
