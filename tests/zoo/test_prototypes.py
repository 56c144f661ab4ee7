from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from captum_deduce import datasets
from captum_deduce.zoo.prototypes import make_prototypes


class _Always(nn.Module):
    """Sees one class in every image, but another where the first entry is high."""

    def forward(self, images):
        high = (images[:, 0, 0, 0] > 0.9).float()
        return torch.stack([1 - high, high, -torch.ones_like(high)], 1)


def test_prototypes_go_by_what_the_classifier_sees_or_else_by_label(capsys):
    images = torch.zeros(18, 1, 2, 2)
    images[3:9, 0, 0, 0] = 1
    images[:, 0, 1, 1] = torch.arange(18) / 18
    train = datasets.ImageData(images, torch.arange(18) % 3, ("a", "b", "c"))
    encoder = nn.Flatten()
    by_label = make_prototypes(_Always(), encoder, train)
    assert "prototypes are of labels" in capsys.readouterr().out
    assert by_label.counts.tolist() == [6, 6, 6]
    assert torch.equal(by_label.features[6:12], images[1::3].flatten(1))
    two = replace(train, target=torch.arange(18) % 2, class_names=("a", "b"))
    seen = make_prototypes(_two_classes(_Always()), encoder, two)
    assert capsys.readouterr().out == ""
    assert seen.counts.tolist() == [12, 6]
    assert torch.equal(seen.features[12:], images[3:9].flatten(1))


def _two_classes(model):
    return lambda images: model(images)[:, :2]
