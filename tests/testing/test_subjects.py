import copy

import torch

from captum_deduce.testing import Subject
from captum_deduce.testing.subjects import as_function


def test_a_subject_knows_the_digits():
    subject = Subject()
    with torch.no_grad():
        right = subject(subject.training_images).argmax(1) == subject.training_labels
    assert right.double().mean() > 0.9
    assert subject.training_images.shape == (1000, 1, 8, 8)
    assert not subject.training
    assert (subject.target != subject.predicted).all()


def test_every_subject_is_the_same_and_one_of_its_own():
    first, second = Subject(), Subject()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    with torch.no_grad():
        first.fc.weight.zero_()
    assert Subject().fc.weight.any()


def test_training_leaves_the_generator_alone():
    torch.manual_seed(4)
    expected = torch.rand(())
    torch.manual_seed(4)
    Subject()
    assert torch.rand(()) == expected


def test_shades_of_a_digit_are_seen_as_the_digit():
    grey, coloured = Subject(), Subject(3)
    assert coloured.images.shape == (6, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(coloured(coloured.images), grey(grey.images))


def test_images_follow_the_model():
    subject = Subject().float()
    assert subject.images.dtype == subject.training_images.dtype == torch.float32
    torch.testing.assert_close(subject.images.double(), Subject().images)


def test_what_is_done_before_and_after():
    subject = Subject()
    with torch.no_grad():
        scores = subject(subject.images)
        subject.before = lambda inputs: 1 - inputs
        torch.testing.assert_close(subject(1 - subject.images), scores)
        subject.after = lambda scores, factor: scores * factor
        torch.testing.assert_close(subject(1 - subject.images, 2.0), scores * 2)


def test_a_function_has_what_a_factory_needs():
    subject = Subject()
    function = as_function(subject)
    assert function.features is subject.features
    assert function.maps is subject.maps
    assert torch.equal(function.training_images, subject.training_images)
    with torch.no_grad():
        assert torch.equal(function(subject.images), subject(subject.images))


def test_copies_are_apart():
    subject = Subject()
    twin = copy.deepcopy(subject)
    twin.after = lambda scores: scores * 0
    assert subject.after is None
