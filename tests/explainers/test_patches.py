"""Where cells lie in an image, against plain loops over pixels."""

from __future__ import annotations

import pytest
import torch

from captum_deduce.explainers import PatchGrid


@pytest.mark.parametrize(
    ("cells", "size"), [((4, 4), (28, 28)), ((3, 2), (8, 7)), ((5, 5), (5, 9))]
)
def test_pasted_parts_are_those_of_the_other_image(cells, size):
    grid = PatchGrid(cells, size)
    made = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, *size, generator=made)
    donors = torch.rand(5, 2, *size, generator=made)
    number = cells[0] * cells[1]
    donor = torch.randint(-1, 5, (3, number), generator=made)
    cell = torch.randint(0, number, (3, number), generator=made)
    found = grid.paste(images, donors, donor, cell)
    for i in range(3):
        for y in range(size[0]):
            for x in range(size[1]):
                here = (y * cells[0] // size[0]) * cells[1] + x * cells[1] // size[1]
                m = int(donor[i, here])
                if m < 0:
                    assert torch.equal(found[i, :, y, x], images[i, :, y, x])
                    continue
                top, left, height, width = grid.box(here)
                up, aside, tall, wide = grid.box(int(cell[i, here]))
                there = up + (y - top) * tall // height, aside + (x - left) * wide // width
                assert torch.equal(found[i, :, y, x], donors[m, :, there[0], there[1]])


@pytest.mark.parametrize(("cells", "size"), [((7, 7), (224, 224)), ((3, 4), (10, 6))])
def test_boxes_divide_the_image(cells, size):
    grid = PatchGrid(cells, size)
    owner = torch.full(size, -1)
    for cell in range(cells[0] * cells[1]):
        top, left, height, width = grid.box(cell)
        assert (owner[top : top + height, left : left + width] == -1).all()
        owner[top : top + height, left : left + width] = cell
    assert torch.equal(owner, grid.cell)


def test_a_cell_put_into_its_own_place_changes_nothing():
    grid = PatchGrid((3, 3), (8, 8))
    image = torch.rand(1, 1, 8, 8)
    same = torch.arange(9).unsqueeze(0)
    assert torch.equal(grid.paste(torch.zeros(1, 1, 8, 8), image, 0 * same, same), image)


def test_more_cells_than_pixels_are_refused():
    with pytest.raises(ValueError, match="at most a cell for each pixel, got 9 x 4 cells"):
        PatchGrid((9, 4), (8, 8))
