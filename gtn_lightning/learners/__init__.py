"""The networks that are taught, and distributions over them."""

from gtn_lightning.learners.autoencoder import Autoencoder, ConvAutoencoder
from gtn_lightning.learners.convnet import ConvNet
from gtn_lightning.learners.distributions import (
    Fixed,
    LearnerDistribution,
    LearnerFactory,
    Mixture,
    RandomWidth,
    check_distribution,
    check_learner,
)
from gtn_lightning.learners.mlp import MLP
from gtn_lightning.learners.paper import GTNCifarNet, GTNMnistNet
from gtn_lightning.learners.resnet import ResNet

__all__ = [
    "MLP",
    "Autoencoder",
    "ConvAutoencoder",
    "ConvNet",
    "Fixed",
    "GTNCifarNet",
    "GTNMnistNet",
    "LearnerDistribution",
    "LearnerFactory",
    "Mixture",
    "RandomWidth",
    "ResNet",
    "check_distribution",
    "check_learner",
]
