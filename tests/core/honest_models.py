"""Ordinary models, each with tasks of its kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import honest_decoders as decoders
import honest_functions as functions
import honest_images as images
from honest_sequences import GPT, LSTMTagger, Recurrence, StateSpace, TemporalConvolutions, Transformer, WaveNet
from torch import nn

from litmaml.models import MLP, Conv4, ResNet12


class Honest(NamedTuple):
    """A model and one example's shape of input and target; ``words`` are whole numbers below 7.

    ``classes``: targets are of three classes, in that shape. ``random``: it draws in training.
    ``detached``: its gradient leaves a part of it out, so that it is not the slope of the loss.
    """

    make: Callable[[], nn.Module]
    inputs: tuple[int, ...]
    targets: tuple[int, ...] = ()
    classes: bool = True
    words: bool = False
    random: bool = False
    detached: bool = False


def function(make: Callable[[], nn.Module], random: bool = False) -> Honest:
    """A model of two numbers to one."""
    return Honest(make, (2,), (1,), classes=False, random=random)


IMAGE, POINTS, WORDS = (1, 16, 16), (6, 3), (7,)
HONEST: dict[str, Honest] = {
    "Conv4": Honest(lambda: Conv4(ways=3, filters=4, size=16), IMAGE),
    "Conv4 of one's own": Honest(images.conv4, IMAGE),
    "Conv4 with instance norm": Honest(lambda: images.conv4("instance", left=4), (1, 32, 32)),
    "ResNet12": Honest(lambda: ResNet12(3, (4, 4, 8, 8), channels=1), IMAGE),
    "ResNet12 with group norm": Honest(lambda: ResNet12(3, (4, 8, 8, 8), channels=1, norm="group"), IMAGE),
    "ResNet-12 of one's own": Honest(lambda: images.resnet("batch", 3), IMAGE),
    "ResNet with group norm": Honest(lambda: images.resnet("group", 2), IMAGE),
    "ViT": Honest(images.ViT, IMAGE),
    "ConvNeXt": Honest(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 4, 4),
            images.ConvNeXtBlock(4),
            images.ConvNeXtBlock(4),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.LayerNorm(4),
            nn.Linear(4, 3),
        ),
        IMAGE,
    ),
    "MLP-Mixer": Honest(images.Mixer, IMAGE),
    "U-Net": Honest(decoders.UNet, (1, 8, 8), (8, 8)),
    "autoencoder": Honest(decoders.Autoencoder, IMAGE, IMAGE, classes=False),
    "variational autoencoder": Honest(decoders.Variational, IMAGE, IMAGE, classes=False, random=True),
    "MobileNet with squeeze and excitation": Honest(
        lambda: nn.Sequential(
            images.mobile(1, 4), images.mobile(4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        ),
        IMAGE,
    ),
    "DenseNet": Honest(images.Dense, (1, 8, 8)),
    "capsules": Honest(images.Capsules, IMAGE, detached=True),
    "spatial transformer": Honest(images.SpatialTransformer, IMAGE),
    "Inception": Honest(images.Inception, (1, 8, 8)),
    "attention pooling": Honest(images.AttentionPooling, (1, 8, 8)),
    "cosine head": Honest(images.CosineHead, IMAGE),
    "VGG with dropout": Honest(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, 2),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.2),
            nn.Flatten(),
            nn.Linear(196, 8),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(8, 3),
        ),
        IMAGE,
        random=True,
    ),
    "MLP": function(lambda: MLP(inputs=2, outputs=1, hidden=[8, 8])),
    "SIREN": function(functions.Siren),
    "Fourier features": function(functions.FourierFeatures),
    "FiLM": function(functions.FiLM),
    "hypernetwork": function(functions.HyperNetwork),
    "mixture of experts": function(functions.SparseExperts),
    "neural ODE": function(functions.NeuralODE),
    "highway": function(functions.Highway),
    "weight-normalised MLP": function(functions.weight_normalised),
    "deep equilibrium": function(functions.Equilibrium),
    "radial bases": function(functions.RadialBases),
    "DeepSets": Honest(functions.DeepSets, POINTS),
    "PointNet": Honest(functions.PointNet, POINTS),
    "graph convolution": Honest(functions.GraphConvolution, (5, 8)),
    "set transformer": Honest(functions.SetTransformer, POINTS),
    "LSTM": Honest(lambda: Recurrence("LSTM"), POINTS),
    "GRU both ways": Honest(lambda: Recurrence("GRU", bidirectional=True, num_layers=2), POINTS),
    "LSTM over words": Honest(LSTMTagger, WORDS, WORDS, words=True),
    "transformer with padding": Honest(Transformer, WORDS, words=True),
    "BERT with dropout": Honest(lambda: Transformer(dropout=0.1), WORDS, words=True, random=True),
    "GPT with tied embeddings": Honest(GPT, WORDS, WORDS, words=True),
    "GPT with rotary positions, untied": Honest(lambda: GPT(tied=False, rotary=True), WORDS, WORDS, words=True),
    "WaveNet": Honest(WaveNet, (1, 12), (12,)),
    "temporal convolutions": Honest(TemporalConvolutions, (3, 12)),
    "state space": Honest(StateSpace, (12, 3)),
    "Conv4 with running statistics": Honest(lambda: images.conv4("running"), IMAGE),
    "discriminator with spectral norm": Honest(
        lambda: nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 4, 4, 2)),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(196, 3),
        ),
        IMAGE,
    ),
    "moving codebook": function(functions.MovingCodebook),
    "MobileNet version 3": Honest(
        lambda: nn.Sequential(
            images.mobile(1, 4, nn.Hardsigmoid), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        ),
        IMAGE,
    ),
}
"""Those that are refused have their reasons in ``REFUSED``."""

REFUSED = {
    "Conv4 with running statistics": "running statistics between tasks; set batch_norm to batch",
    "discriminator with spectral norm": "changes .*_u.* power iterations",
    "moving codebook": "changes words, which tasks would share; take out what keeps",
}
