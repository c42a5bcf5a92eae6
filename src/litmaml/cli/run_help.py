"""The help of the commands that run a trainer: the options that matter, where there are two hundred."""

from __future__ import annotations

RUNS = ("fit", "validate", "test", "predict")
"""Commands that take all options of a run."""
ALL = "--help=all"
"""What is typed for the help of every option."""

OPTIONS: dict[str, dict[str, str]] = {
    "what is run": {
        "-c": "of litmaml configs, or a file; later ones win",
        "--ckpt_path": "what to test or go on with: RUN, RUN/last, a file",
        "--init_weights": "the run whose weights a new one starts from",
        "--imports": "your own modules: --imports one two",
        "--seed_everything": "of weights and of what is random beside the tasks",
    },
    "the model, and how it adapts": {
        "--model.model": "its class, such as litmaml.models.Conv4",
        "--model.loss": "torch.nn.MSELoss, ...; by default cross entropy",
        "--model.inner_optimizer": "SGD, Adam, ...: --model.inner_optimizer.lr=0.1",
        "--model.inner_steps": "inner steps in training",
        "--model.test_inner_steps": "inner steps in validation and test",
        "--model.fast_weights": "patterns of what adapts: '[head.*]'",
        "--model.frozen_weights": "patterns of what neither adapts nor is trained",
        "--model.batch_norm": "batch, frozen or group",
    },
    "how it is meta-trained": {
        "--model.outer_gradient": "SecondOrder, FirstOrder, FiniteDifference, ...",
        "--model.outer_loss": "MeanLoss, MultiStepLoss, WorstCaseLoss",
        "--model.optimizer": "of torch.optim: --model.optimizer.lr=0.001",
        "--model.lr_scheduler": "of torch.optim.lr_scheduler",
        "--model.tasks_per_chunk": "tasks computed at once; fewer take less memory",
        "--model.compile": "true: slow at first, then faster",
    },
    "the tasks": {
        "--data.tasks": "their class: --data.tasks.help=ImageFolderTasks",
        "--data.tasks.init_args.train": "ways, shots, queries: ...train.shots=5",
        "--data.meta_batch": "tasks of one outer step",
        "--data.train_tasks": "tasks of an epoch; also val_tasks, test_tasks",
        "--data.num_workers": "processes that make tasks ahead",
        "--data.seed": "of all tasks",
    },
    "the run": {
        "--trainer.max_epochs": "epochs; or outer steps: --trainer.max_steps",
        "--trainer.max_time": "the longest it may take: 00:02:00:00, two hours",
        "--trainer.default_root_dir": "its folder",
        "--trainer.accelerator": "cpu or gpu; how many: --trainer.devices",
        "--trainer.precision": "32-true, bf16-mixed, 64-true",
        "--checkpoint.monitor": "what the best checkpoint is best in: val/loss",
    },
}
"""The options by what they are about, with a line each."""


def run_help(command: str, does: str) -> str:
    """What ``litmaml COMMAND --help`` prints.

    Args:
        command: One of ``RUNS``.
        does: What it does, in a line.
    """
    lines = [f"usage: litmaml {command} -c CONFIG [options]", "", does]
    for title, options in OPTIONS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:28} {says}" for name, says in options.items()]
    return "\n".join(
        [
            *lines,
            "",
            f"All options, with their types and defaults: litmaml {command} {ALL}",
            "Those of a class: --model.outer_gradient.help=Implicit",
            "What a configuration sets: --print_config",
        ]
    )
