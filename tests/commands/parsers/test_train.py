from __future__ import annotations

import pytest

from captum_deduce.commands import main
from captum_deduce.zoo import RECONSTRUCTIONS


@pytest.mark.parametrize("model", ["classifier", *RECONSTRUCTIONS])
def test_every_model_that_has_recipes_can_be_asked_for(recorded, model):
    assert main(["train", "--dataset", "digits", "--model", model, "--noise", "0.5"]) == 0
    ((name, given),) = recorded
    assert (name, given["model"], given["noise"], given["overwrite"]) == (
        "train",
        model,
        0.5,
        False,
    )


def test_another_model_is_refused_with_those_that_there_are(capsys):
    assert main(["train", "--dataset", "digits", "--model", "diffusion"]) == 2
    assert "autoencoder" in capsys.readouterr().err


def test_disturbances_are_off_unless_asked_for(recorded):
    assert main(["train", "--dataset", "digits"]) == 0
    assert main(["train", "--dataset", "cifar10", "--augment", "--adversarial", "0.5"]) == 0
    found = [(given["augment"], given["adversarial"]) for _, given in recorded]
    assert found == [(False, None), (True, 0.5)]
