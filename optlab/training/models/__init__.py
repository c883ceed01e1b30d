"""Small models in Flax nnx, by name, and as pure functions."""

from optlab.training.models._cnn import CNN
from optlab.training.models._few_shot_cnn import FewShotCNN
from optlab.training.models._functional import Functional, functional
from optlab.training.models._gpt import GPT
from optlab.training.models._hyper import HyperConv, HyperDense, HyperLSTMCell, hyper_dropout
from optlab.training.models._layers import SpectralLinear, convolutions, dense_layers
from optlab.training.models._lstm import LSTM
from optlab.training.models._make import make_model
from optlab.training.models._mlp import MLP
from optlab.training.models._resnet import ResNet
from optlab.training.models._stable_embedding import LinenStableEmbedding, StableEmbedding
from optlab.training.models._vit import ViT

__all__ = [
    "CNN",
    "GPT",
    "LSTM",
    "MLP",
    "FewShotCNN",
    "Functional",
    "HyperConv",
    "HyperDense",
    "HyperLSTMCell",
    "LinenStableEmbedding",
    "ResNet",
    "SpectralLinear",
    "StableEmbedding",
    "ViT",
    "convolutions",
    "dense_layers",
    "functional",
    "hyper_dropout",
    "make_model",
]
