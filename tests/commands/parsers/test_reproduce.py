from __future__ import annotations

import pytest

from captum_deduce.commands import main
from captum_deduce.experiments import EXPERIMENTS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_asked_for(recorded, name):
    assert main(["reproduce", name, "--smoke"]) == 0
    ((_, given),) = recorded
    assert (given["what"], given["smoke"], given["full"]) == (name, True, False)


def test_the_sizes_exclude_one_another(capsys):
    assert main(["reproduce", "table1", "--smoke", "--full"]) == 2
    assert "not allowed with" in capsys.readouterr().err
