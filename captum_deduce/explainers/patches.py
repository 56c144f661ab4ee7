"""Cells of a layer's maps and the parts of images they stand for; which cell was put where."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_deduce.counterfactuals import Counterfactuals


class PatchGrid:
    """How the cells of a layer's maps divide an image.

    Cell (r, c) of h x w is the part of the image with the rows y for which ``y * h // height`` is
    r, and the columns likewise. Where h does not divide the height, cells differ by a row: one that
    goes into the place of a smaller one loses it, and the other way round one is doubled.

    Args:
        cells (tuple[int, int]): h and w.
        image_size (tuple[int, int]): Height and width.

    Raises:
        ValueError: More cells than pixels.
    """

    def __init__(self, cells: tuple[int, int], image_size: tuple[int, int]) -> None:
        if any(count > size for count, size in zip(cells, image_size, strict=True)):
            raise ValueError(
                f"layer must have at most a cell for each pixel, got {cells[0]} x {cells[1]} cells "
                f"for images of {image_size[0]} x {image_size[1]}"
            )
        self.cells, self.image_size = cells, image_size
        (row, self._rows), (column, self._columns) = (
            _along(*sizes) for sizes in zip(cells, image_size, strict=True)
        )
        self.cell = row.unsqueeze(1) * cells[1] + column

    def box(self, cell: int) -> tuple[int, int, int, int]:
        """Find the part of an image that a cell stands for.

        Args:
            cell (int): Its number, row by row.

        Returns:
            tuple[int, int, int, int]: Top, left, height and width, in pixels.
        """
        starts, sizes = [], []
        for place, count, size in zip(
            divmod(cell, self.cells[1]), self.cells, self.image_size, strict=True
        ):
            start = -(-place * size // count)
            starts.append(start)
            sizes.append(-(-(place + 1) * size // count) - start)
        return starts[0], starts[1], sizes[0], sizes[1]

    def paste(self, images: Tensor, donors: Tensor, donor: Tensor, cell: Tensor) -> Tensor:
        """Put parts of other images into images.

        Args:
            images (Tensor): A x channels x height x width.
            donors (Tensor): K x channels x height x width.
            donor (Tensor): For each cell of each image the donor, A x h w, int64; -1: it stays.
            cell (Tensor): Of which the cell, likewise.

        Returns:
            Tensor: The images with their new parts.
        """
        here = self.cell.to(images.device)
        source, place = donor[:, here], cell[:, here].clamp_min(0)
        rows, columns = self._rows.to(images.device), self._columns.to(images.device)
        y = rows[torch.arange(len(rows), device=rows.device).unsqueeze(1), place // self.cells[1]]
        x = columns[torch.arange(len(columns), device=rows.device), place % self.cells[1]]
        parts = donors[source.clamp_min(0), :, y, x].movedim(-1, 1)
        return torch.where((source >= 0).unsqueeze(1), parts, images)


def _along(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Along one side: the cell of each pixel, and its likeness in each other cell, size x count."""
    pixel = torch.arange(size)
    cell = pixel * count // size
    bounds = -(-torch.arange(count + 1) * size // count)
    start, length = bounds[:-1], bounds.diff()
    offset = (pixel - start[cell]).unsqueeze(1)
    return cell, start + offset * length // length[cell].unsqueeze(1)


@dataclass(frozen=True)
class PatchSwaps:
    """What :meth:`captum_deduce.PatchSwap.swaps` finds: which cell was put where, in which order.

    Args:
        result (Counterfactuals): The images with the pasted pixels; ``success`` is about these.
        distractors (Tensor): The images that cells were taken from, K x channels x height x width.
        grid (tuple[int, int]): Rows and columns of cells, h and w.
        query_cells (Tensor): The cells that were replaced, in that order, N x E, int64: numbers
            row by row; -1 behind the last.
        distractor_index (Tensor): From which of the distractors, likewise.
        distractor_cells (Tensor): Which of its cells came in, likewise.
        feature_edits (Tensor): With how many exchanged cells the *features* were those of a
            counterfactual, N, int64; -1 where they never were.
        feature_confidence (Tensor): What the rest of the model says of the features that belong to
            the returned images, the target's softmax probability, N.
    """

    result: Counterfactuals
    distractors: Tensor
    grid: tuple[int, int]
    query_cells: Tensor
    distractor_index: Tensor
    distractor_cells: Tensor
    feature_edits: Tensor
    feature_confidence: Tensor

    def __len__(self) -> int:
        return len(self.result)

    def __repr__(self) -> str:
        flipped = int(self.feature_success.sum())
        return (
            f"PatchSwaps({len(self)} pairs: {flipped} found at the features, "
            f"{int(self.result.success.sum())} with the pasted pixels; "
            f"{self.edits.double().mean():.1f} cells of {self.grid[0]} x {self.grid[1]})"
        )

    @property
    def edits(self) -> Tensor:
        """How many cells were exchanged in the returned images, N, int64."""
        return (self.query_cells >= 0).sum(1)

    @property
    def feature_success(self) -> Tensor:
        """Whether the features became those of a counterfactual, N, bool."""
        return self.feature_edits >= 0
