"""What happened in a training, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainingHistory:
    """What happened in each epoch: every list has one value per epoch.

    Args:
        loss (list[float]): Mean cross-entropy of the training batches, as they were augmented and
            disturbed, in nats.
        accuracy (list[float]): Share of right predictions in these batches, with the weights as
            they were at each batch.
        validation_accuracy (list[float]): Share of right predictions on the validation images after
            the epoch, in eval mode; empty without validation images.
        seconds (list[float]): Wall time of the training, without the validation.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
