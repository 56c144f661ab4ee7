from __future__ import annotations

import argparse

from captum_deduce.commands.parsers.subject import add_classifier, add_search, gathered


def parsed(*words):
    parser = argparse.ArgumentParser()
    add_classifier(parser)
    add_search(parser)
    return vars(parser.parse_args(words))


def test_what_is_said_of_a_torchvision_classifier_is_gathered():
    given = gathered(parsed("--weights", "w", "--architecture", "torchvision:vgg11", "--mean", "0"))
    assert {name: str(value) for name, value in given["torchvision"].items()} == {
        "weights": "w",
        "architecture": "torchvision:vgg11",
        "mean": "[0.0]",
    }
    assert given["checkpoint"] is None
    assert "size" not in given


def test_with_a_checkpoint_nothing_is_said_of_one():
    assert gathered(parsed("--checkpoint", "c"))["torchvision"] == {}


def test_only_settings_that_were_given_are_there():
    assert set(parsed("--checkpoint", "c", "--pixel", "site")) >= {"pixel", "preset"}
    assert "confidence" not in parsed("--checkpoint", "c")
