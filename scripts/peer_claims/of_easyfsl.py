"""easyfsl 1.5.0."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

from peer_claims.claim import Figures, Peer

EASYFSL = Peer("easyfsl", "1.5.0", "easyfsl", "pip install easyfsl==1.5.0")


@EASYFSL.claim(lambda f: f["probabilities differ by"] > 0.01, needs=("torchvision", "pandas"))
def easyfsl_finetune_again() -> Figures:
    """``Finetune`` goes on from where it was: the same queries are classified otherwise a second time.

    So that queries in two batches meet two classifiers, the second with twice the steps: here ten of rate 0.05.
    """
    from easyfsl.methods import Finetune

    labels = torch.arange(3).repeat(4)
    model = Finetune(nn.Identity(), fine_tuning_steps=10, fine_tuning_lr=0.05, use_softmax=True)
    model.process_support_set(torch.randn(12, 5) + labels[:, None], labels)
    queries = torch.randn(6, 5)
    first, second = model(queries), model(queries)
    return {"probabilities differ by": float((first - second).abs().max())}


@EASYFSL.claim(lambda f: f["raises TypeError"] == 1, needs=("torchvision", "pandas"))
def easyfsl_task_sampler() -> Figures:
    """``TaskSampler`` cannot be made: torch's sampler no longer takes ``data_source``."""
    from easyfsl.datasets import WrapFewShotDataset
    from easyfsl.samplers import TaskSampler

    labelled = WrapFewShotDataset(TensorDataset(torch.zeros(40, 3), torch.arange(4).repeat(10)))
    try:
        TaskSampler(labelled, n_way=2, n_shot=1, n_query=1, n_tasks=1)
    except TypeError:
        return {"raises TypeError": 1.0}
    return {"raises TypeError": 0.0}
