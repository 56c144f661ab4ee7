from __future__ import annotations

from captum_deduce.commands import main


def test_every_option_reaches_the_command(recorded):
    arguments = "demo --dataset mnist --data-root d --images 4 --width 2 --epochs 3 --seed 5"
    assert main([*arguments.split(), "--smoke", "--retrain", "--compare", "--device", "cpu"]) == 0
    ((_, given),) = recorded
    assert given["output"].name == "captum-deduce-demo"
    expected = {"dataset": "mnist", "data_root": "d", "images": 4, "width": 2, "epochs": 3}
    expected |= {"seed": 5, "smoke": True, "retrain": True, "compare": True, "device": "cpu"}
    assert given | expected == given
