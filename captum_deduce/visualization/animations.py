"""How a search changed an image: as an animation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from captum_deduce import checks
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.density import ClassGaussianMixture
from captum_deduce.visualization import sheet as sheets
from captum_deduce.visualization.class_names import ClassNames
from captum_deduce.visualization.journeys import IMAGES_WIDTH, LABELS, Journey, draw_curves, stacked
from captum_deduce.visualization.pixels import Bands, PerChannel
from captum_deduce.visualization.traces import Trace


@sheets.own_style()
def save_animation(
    result: Counterfactuals,
    pair: int,
    path: str | Path,
    forward_func: Callable[..., Any] | None = None,
    layer: nn.Module | str | None = None,
    density: ClassGaussianMixture | None = None,
    *,
    class_names: ClassNames | None = None,
    max_frames: int = 60,
    frames_per_second: float = 8.0,
    hold: float = 2.0,
    image_size: float = 2.2,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    bands: Bands | None = None,
) -> Path:
    r"""Write a GIF of the image changing.

    Each frame shows the image, its difference from the original (on one scale) and, as in
    :func:`plot_trajectory`, curves with a mark at the frame's step. The last frame shows the image
    that was returned and is held. The animation repeats.

    Args:
        result (Counterfactuals): Made with ``return_trajectory=True``.
        pair (int): Which of its pairs.
        path (str or Path): The file to write, ``*.gif``.
        forward_func (Callable or nn.Module, optional): See :func:`plot_trajectory`.
            Default: None (no curves)
        layer (nn.Module or str, optional): See :func:`plot_trajectory`. Default: None
        density (ClassGaussianMixture, optional): See :func:`plot_trajectory`. Default: None
        class_names (Sequence[str] or Mapping, optional): A name per class, or ``{index: name}``.
            Default: None (their numbers)
        max_frames (int, optional): Of a longer trajectory this many steps are shown, evenly spread.
            Default: 60
        frames_per_second (float, optional): Speed. Default: 8.0
        hold (float, optional): Seconds for which the last frame stays. Default: 2.0
        image_size (float, optional): Inches of an image's longer side, about. Default: 2.2
        mean (float, sequence or Tensor, optional): See :func:`plot_trajectory`. Default: None
        std (float, sequence or Tensor, optional): See :func:`plot_trajectory`. Default: None
        bands (int or Sequence[int], optional): See :func:`plot_trajectory`. Default: None

    Returns:
        Path: The file.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: As :func:`plot_trajectory`, or a file name that does not end in ``.gif``.
        FileNotFoundError: No such folder.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"path must end in .gif, got {str(path)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path lies in a folder that does not exist: {path.parent}")
    checks.number("max_frames", max_frames, minimum=2, integer=True)
    # What a GIF can say: hundredths of a second.
    checks.number("frames_per_second", frames_per_second, minimum=0.1, maximum=50)
    checks.number("hold", hold, minimum=0)
    checks.number("image_size", image_size, minimum=0, exclusive=True)
    journey = Journey.read(result, pair, max_frames, class_names, mean, std, bands)
    trace = journey.trace(forward_func, layer, density)

    film = _Film(journey, trace, image_size)
    frames = [film.show(frame) for frame in range(len(journey.steps))]
    frame_time = round(1000 / frames_per_second)
    frames[0].save(
        path,
        save_all=True,
        append_images=[*frames[1:], film.show_returned()],
        duration=[frame_time] * len(frames) + [max(round(1000 * hold), frame_time)],
        loop=0,
    )
    return path


class _Film:
    """The figure of an animation, with what changes from frame to frame."""

    def __init__(self, journey: Journey, trace: Trace | None, image_size: float) -> None:
        self.journey = journey
        curves_width = 0.0 if trace is None else 4.4
        self.sheet = sheets.make_sheet(
            1,
            2,
            journey.colors.shape[1:3],
            image_size=image_size,
            title_lines=1,
            least_width=IMAGES_WIDTH / 2,
            margins=sheets.Margins(right=1.05 + curves_width, top=0.2 + sheets.LINE, bottom=0.5),
        )
        left, right = self.sheet.axes[0]
        limit = sheets.change_limit(np.stack([*journey.changes, journey.final[1]]))
        self.image = sheets.draw_colors(left, journey.colors[0])
        self.change = sheets.draw_change(right, journey.changes[0], limit)
        sheets.write(left, "image")
        sheets.write(right, "change")
        self.heading = sheets.write_heading(self.sheet, "")
        sheets.draw_change_scale(self.sheet, self.change, right=0.95 + curves_width)
        self.marks = [] if trace is None else self._add_curves(trace, curves_width)
        self.moving: list[Artist] = [self.image, self.change, self.heading, *self.marks]
        for artist in self.moving:
            artist.set_animated(True)  # not drawn with the rest, which is drawn once
        self.canvas = FigureCanvasAgg(self.sheet.figure)
        self.canvas.draw()  # type: ignore[no-untyped-call]
        self.background = self.canvas.copy_from_bbox(  # type: ignore[no-untyped-call]
            self.sheet.figure.bbox
        )

    def _add_curves(self, trace: Trace, width: float) -> list[Line2D]:
        across, up = self.sheet.figure.get_size_inches()
        left, bottom = float(across) - width + LABELS, 0.5
        height = float(up) - bottom - 0.5
        axes = stacked(self.sheet, trace.num_curves, left, bottom, width - LABELS - 0.2, height)
        draw_curves(axes, trace, self.journey)
        return [panel.axvline(0, color="black", linewidth=1) for panel in axes]

    def show(self, frame: int) -> Image.Image:
        step, last = int(self.journey.steps[frame]), int(self.journey.steps[-1])
        self.heading.set_text(f"{self.journey.title}, step {step:,} of {last:,}")
        return self._show(self.journey.colors[frame], self.journey.changes[frame], step)

    def show_returned(self) -> Image.Image:
        self.heading.set_text(f"{self.journey.title}, {self.journey.outcome}")
        return self._show(*self.journey.final, self.journey.returned)

    def _show(
        self, colors: NDArray[np.float64], change: NDArray[np.float64], step: int | None
    ) -> Image.Image:
        self.image.set_data(colors)
        self.change.set_data(change)
        for mark in self.marks:
            mark.set_visible(step is not None)
            mark.set_xdata([step or 0] * 2)
        self.canvas.restore_region(self.background)  # type: ignore[no-untyped-call]
        for artist in self.moving:
            self.sheet.figure.draw_artist(artist)
        pixels = np.asarray(self.canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        return Image.fromarray(pixels[..., :3])
