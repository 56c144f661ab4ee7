from __future__ import annotations

from captum_deduce.training.history import TrainingHistory


def test_histories_of_two_trainings_share_nothing():
    TrainingHistory().loss.append(1.0)
    assert TrainingHistory().loss == []
