from __future__ import annotations

import threading

import pytest
import torch

from captum_deduce import JSMA, DeDUCE, Wachter
from captum_deduce.explorer import live
from captum_deduce.explorer.live import Search


def end(search: Search) -> Search:
    for _ in search.looks():
        pass
    return search


def test_a_search_finds_what_the_explainer_finds_and_keeps_its_way(digits):
    explainer = DeDUCE(digits.model, digits.layer, digits.density)
    target = (int(digits.labels[0]) + 1) % 10
    search = end(Search(explainer, digits.images[:1], target))
    expected = explainer.generate(digits.images[:1], target, return_trajectory=True)
    assert torch.equal(search.result.counterfactuals, expected.counterfactuals)
    assert torch.equal(torch.stack(search.course.images), expected.trajectory[0])
    assert search.course.steps == list(range(len(expected.trajectory[0])))
    assert search.course.confidence[-1] == pytest.approx(float(expected.confidence))
    assert search.course.log_density[-1] == pytest.approx(float(expected.log_density))
    assert search.error is None
    assert search.seconds > 0


def test_of_a_long_way_every_second_image_is_kept(model, image, monkeypatch):
    monkeypatch.setattr(live, "_KEPT_BYTES", 10 * image.numel() * 4)
    search = end(Search(Wachter(model, confidence=0.9999, max_iterations=100), image, 2))
    course = search.course
    assert len(course.confidence) > 20
    assert len(course.images) <= 10
    strides = {
        later - sooner for sooner, later in zip(course.steps, course.steps[1:], strict=False)
    }
    assert len(strides) == 1
    assert course.steps[0] == 0


def test_a_mask_is_passed_on(model, image):
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:4] = True
    result = end(Search(JSMA(model), image, 2, mask)).result
    changed = (result.attributions != 0)[0, 0]
    assert changed.any()
    assert not (changed & ~mask).any()


def test_searches_of_one_model_at_a_time_find_what_each_finds_alone(demo, digit_images):
    from captum_deduce.zoo import make_explainer

    explainer = make_explainer(demo.checkpoint)
    images = digit_images.images[:8]
    alone = [explainer.generate(image[None], 3) for image in images]
    modes = [part.training for part in demo.checkpoint.model.modules()]
    together = [Search(explainer, image[None], 3) for image in images]
    threads = [threading.Thread(target=end, args=(search,)) for search in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, search in zip(alone, together, strict=True):
        assert search.error is None
        assert torch.equal(search.result.success, expected.success)
        torch.testing.assert_close(search.result.confidence, expected.confidence)
    assert [part.training for part in demo.checkpoint.model.modules()] == modes
