from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import nn

from captum_deduce.visualization import save_animation
from tests.visualization.samples import SEVEN, changed, make_result

ZOOM = 28  # screen pixels of an image's pixel: 2.2 inches for 8 of them
LEFT = 15 + (275 - 8 * ZOOM) // 2  # centred in its column


def _result(steps=9, returned=-1, **fields):
    images = [SEVEN]
    for step in range(steps):
        images.append(changed(images[-1], (step % 8, step // 8, 0.75)))
    path = torch.stack(images)
    return make_result(path[:1], path[returned].unsqueeze(0), trajectory=[path], **fields)


def _frames(path):
    """Each frame's picture, from 0 to 1, and its duration in ms."""
    with Image.open(path) as file:
        return [
            (np.asarray(frame.convert("RGB")) / 255, frame.info["duration"])
            for frame in ImageSequence.Iterator(file)
        ]


def _shown(frame):
    """The image in a frame, one number per pixel."""
    # the image stands at the left, under a heading and a title: find it by its black corner
    rows = (np.arange(8) + 0.5) * ZOOM
    top = frame.shape[0] - 50 - 8 * ZOOM
    centres = frame[(top + rows).astype(int)][:, (LEFT + rows).astype(int)]
    return centres.mean(-1)


def test_frames_follow_the_trajectory_and_end_on_what_was_returned(tmp_path):
    result = _result(steps=9, returned=4, success=[False])
    path = save_animation(result, 0, tmp_path / "path.gif", max_frames=4, hold=1.5)
    assert path == tmp_path / "path.gif"
    frames = _frames(path)
    expected = [result.trajectory[0][step, 0].numpy() for step in (0, 3, 6, 9, 4)]
    assert len(frames) == len(expected)
    for (frame, _), image in zip(frames, expected, strict=True):
        np.testing.assert_allclose(_shown(frame), image, atol=0.04)
    durations = [duration for _, duration in frames]
    assert durations == pytest.approx([120, 120, 120, 120, 1500], abs=10)


def test_the_change_so_far_is_shown_beside_the_image(tmp_path):
    frames = _frames(save_animation(_result(), 0, str(tmp_path / "x.gif"), max_frames=2))
    row = frames[0][0].shape[0] - 50 - int(7.5 * ZOOM)
    column = LEFT + 275 + 12 + ZOOM // 2
    before, after = frames[0][0][row, column], frames[1][0][row, column]
    assert before.min() > 0.9  # unchanged
    assert after[0] - after[2] > 0.2  # red: the first pixel was lit


def test_curves_have_a_mark_that_moves(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    frames = _frames(save_animation(_result(), 0, tmp_path / "x.gif", model, max_frames=3))
    plain = _frames(save_animation(_result(), 0, tmp_path / "y.gif", max_frames=3))
    width = plain[0][0].shape[1]
    assert frames[0][0].shape[1] > width + 300
    curves = [frame[80:, width:] for frame, _ in frames]
    lines = []
    for picture in curves:
        dark = (picture.max(-1) < 0.2).mean(0)  # columns that are black from top to bottom
        lines.append(np.flatnonzero(dark > 0.5))
    # the frame of the panel stands still, the mark wanders to the right
    moving = [set(columns) - set(lines[(i + 1) % 3]) for i, columns in enumerate(lines[:3])]
    assert max(moving[0]) < min(moving[1]) < max(moving[2])


def test_short_and_long_trajectories_are_written(tmp_path):
    for steps in (0, 1):
        frames = _frames(save_animation(_result(steps), 0, tmp_path / "x.gif"))
        total = sum(duration for _, duration in frames)
        assert total == pytest.approx(125 * (steps + 1) + 2000, abs=20)
    slow = save_animation(_result(1), 0, tmp_path / "x.gif", frames_per_second=0.5, hold=0.0)
    assert sum(duration for _, duration in _frames(slow)) == pytest.approx(6000, abs=20)


def test_it_repeats_for_ever(tmp_path):
    with Image.open(save_animation(_result(2), 0, tmp_path / "x.gif")) as file:
        assert file.info["loop"] == 0


def test_normalised_colour_images_are_written_in_their_colours(tmp_path):
    pixels = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    path = (pixels - 0.5) / 0.25
    result = make_result(path[:1], path[2:], trajectory=[path])
    frames = _frames(save_animation(result, 0, tmp_path / "x.gif", mean=0.5, std=0.25))
    np.testing.assert_allclose(_shown(frames[1][0]), pixels[1].mean(0), atol=0.06)


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    result = _result()
    with pytest.raises(ValueError, match=r"path must end in \.gif"):
        save_animation(result, 0, tmp_path / "x.mp4")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save_animation(result, 0, tmp_path / "nowhere" / "x.gif")
    for arguments in (
        {"max_frames": 1},
        {"frames_per_second": 0},
        {"frames_per_second": 100},
        {"hold": -1},
        {"image_size": 0},
        {"std": 3.0},
    ):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            save_animation(result, 0, tmp_path / "x.gif", **arguments)
    with pytest.raises(ValueError, match="return_trajectory=True"):
        save_animation(make_result(SEVEN[None], SEVEN[None]), 0, tmp_path / "x.gif")
    assert not list(tmp_path.iterdir())
