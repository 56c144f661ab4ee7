"""Short training loops for the models of this package, and for a user's own classifier."""

from captum_deduce.training.augmentation import AUGMENTATIONS, make_augmentation
from captum_deduce.training.autoencoders import (
    train_autoencoder,
    train_class_autoencoders,
    train_vae,
)
from captum_deduce.training.classifiers import (
    SCHEDULES,
    accuracy,
    predict,
    train_classifier,
    training_mode,
)
from captum_deduce.training.gans import train_wgan
from captum_deduce.training.history import TrainingHistory

__all__ = [
    "AUGMENTATIONS",
    "SCHEDULES",
    "TrainingHistory",
    "accuracy",
    "make_augmentation",
    "predict",
    "train_autoencoder",
    "train_class_autoencoders",
    "train_classifier",
    "train_vae",
    "train_wgan",
    "training_mode",
]
