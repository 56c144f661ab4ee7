from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from captum_deduce import Counterfactuals
from captum_deduce.visualization import notebook_html
from tests.visualization.samples import grey_result, make_result


def _picture(html):
    encoded = re.search(r'src="data:image/png;base64,([^"]+)"', html).group(1)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")) / 255


_WRAPPED = '<pre style="white-space: pre-wrap">'


def _text(html):
    return re.search(f"{_WRAPPED}(.*)</pre>", html, re.DOTALL).group(1)


def test_a_result_shows_its_summary_and_pictures():
    result = grey_result()
    html = result._repr_html_()
    assert html == notebook_html(result)
    assert _text(html) == result.summary()
    picture = _picture(html)
    assert picture.shape[0] < 800
    assert picture.shape[1] < 800
    # the frame of the failed pair
    orange = (np.abs(picture - np.array([0xD5, 0x5E, 0]) / 255) < 0.01).all(-1)
    assert orange.sum() > 300
    columns = orange.any(0).nonzero()[0]
    assert columns.max() - columns.min() >= 96, "too small to see single pixels"
    assert re.search(r'<img alt="[^"]+original[^"]+" ', html)


def test_only_the_first_five_pairs_are_drawn():
    six = grey_result()[[0, 1, 2, 3, 0, 1]]
    many = grey_result()[[0, 1, 2, 3, 0] * 200]
    assert _picture(six._repr_html_()).shape == _picture(many._repr_html_()).shape
    assert _text(many._repr_html_()).startswith(
        "600 of 800 counterfactuals found, 200 there already"
    )


def test_normalised_inputs_are_stretched_and_that_is_said():
    result = grey_result()
    fields = vars(result) | {
        "inputs": (result.inputs - 0.5) * 4,
        "counterfactuals": (result.counterfactuals - 0.5) * 4,
    }
    html = Counterfactuals(**fields)._repr_html_()
    assert "Values from -2 to 2 are drawn from black to white" in _text(html)
    assert "Values" not in _text(result._repr_html_())
    shown, plain = _picture(html), _picture(result._repr_html_())
    # the images are those of the colours; the legend's numbers are too
    np.testing.assert_allclose(shown, plain, atol=0.01)


@pytest.mark.parametrize("shape", [(3, 7, 4, 4), (3, 64), (3, 1, 4)])
def test_what_cannot_be_drawn_is_text(shape):
    result = make_result(torch.zeros(shape), torch.ones(shape))
    html = result._repr_html_()
    assert "<img" not in html
    assert _text(html).startswith("3 of 3 counterfactuals found")
    assert "No pictures: inputs must have the shape" in _text(html)
    advice = "bands=(3, 2, 1)" if len(shape) == 4 else "dataclasses.replace(result, inputs=result."
    assert advice in _text(html)


def test_inputs_that_are_not_finite_are_text():
    images = torch.full((2, 1, 4, 4), float("nan"))
    assert "No pictures: inputs must be finite" in make_result(images, images)._repr_html_()


def test_no_pairs_are_one_line():
    html = grey_result()[:0]._repr_html_()
    assert html == f"<div>{_WRAPPED}0 of 0 counterfactuals found</pre></div>"


def test_text_is_escaped():
    class Odd(Counterfactuals):
        def summary(self):
            return "<script>alert('&')</script>"

    html = Odd(**vars(grey_result()))._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;alert(&#x27;&amp;&#x27;)" in html
