"""The paper's printed values against the images that were published with it."""

from __future__ import annotations

import numpy as np
import pytest

from captum_deduce.experiments import paper
from tests.published import published

IMAGES = (4, 3, 7, 1, 6, 8)


@pytest.mark.parametrize("name", paper.METHODS)
def test_table_3_is_of_the_published_images(name):
    arrays = np.load(published("paper_set1.npz"))
    printed = paper.TABLE3[name]
    for place, (image, (label, target)) in enumerate(zip(IMAGES, paper.TABLE3_PAIRS, strict=True)):
        assert arrays["labels"][image] == label
        found = arrays[f"cf_{name.lower()}"][image, target]
        change = np.abs(found.astype(np.float64) - arrays["images"][image])
        values = {"L0": np.count_nonzero(change), "L1": change.sum()}
        values["AGAN"] = arrays[f"agan_{name.lower()}"][image, target]
        for metric, value in values.items():
            cell = printed[metric][place]
            misprinted = (name, place) == ("REVISE", 4) and metric != "L0"
            if cell == "N/A":
                continue
            if misprinted:  # its L1 column holds the AnoGAN score
                assert (
                    abs(float(printed["L1"][place]) - arrays["agan_revise"][image, target]) < 0.01
                )
            else:
                assert abs(float(cell) - value) < 0.016, (metric, place)


def test_every_table_has_every_row():
    assert set(paper.TABLE1) == set(paper.TABLE1_FAILURE) == set(paper.TABLE2) == set(paper.METHODS)
    assert set(paper.TABLE4) == set(paper.TABLE4_FAILURE)
    assert set(paper.TABLE5) == set(paper.TABLE5_FAILURE)
    assert {weight for weight, _ in paper.TABLE5} == set(paper.TABLE5_WEIGHTS)
    for metrics in paper.TABLE3.values():
        assert {len(cells) for cells in metrics.values()} == {len(paper.TABLE3_PAIRS)}
