"""Exact nearest neighbours among the rows of a matrix, in bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_rows(
    queries: Tensor, rows: Tensor, k: int, chunk_size: int = 4096
) -> tuple[Tensor, Tensor]:
    r"""Find the k rows with the smallest Euclidean distance to each query.

    Squared distances to all rows are computed in float64, a chunk of rows at a time, as
    :math:`|a|^2 - 2 a \cdot b + |b|^2`; the distances of the rows found are then computed again,
    from differences. Of rows at the same distance the first counts as nearer.

    Args:
        queries (Tensor): A x D, floating-point, finite.
        rows (Tensor): N x D, of the same dtype and device, finite.
        k (int): How many, at most N.
        chunk_size (int, optional): Most rows that are looked at together: the search needs memory
            for chunk_size x (D + A) numbers. Default: 4096

    Returns:
        tuple[Tensor, Tensor]: Distances, A x k, ascending, and indices of the rows, A x k, int64.

    Examples::

        >>> rows = torch.tensor([[0.0], [4.0], [1.0], [4.0]])
        >>> nearest_rows(torch.tensor([[3.0]]), rows, k=3)
        (tensor([[1., 1., 2.]]), tensor([[1, 3, 2]]))
    """
    # There is no float64 on MPS; in float32 squares cancel where features are far from the origin.
    exact = torch.float32 if rows.device.type == "mps" else torch.float64
    wide = queries.to(exact)
    squares = wide.new_empty(len(queries), 0)
    indices = torch.empty(len(queries), 0, dtype=torch.int64, device=rows.device)
    for start in range(0, len(rows), chunk_size):
        chunk = rows[start : start + chunk_size].to(exact)
        # Without |a|^2, which is the same for all rows of a query.
        offsets = torch.addmm(chunk.square().sum(1).unsqueeze(0), wide, chunk.T, alpha=-2)
        numbers = torch.arange(start, start + len(chunk), device=rows.device)
        # What was found so far stands first, so that earlier rows win ties.
        squares, columns = _first_smallest(torch.cat([squares, offsets], 1), k)
        indices = torch.cat([indices, numbers.expand(len(queries), -1)], 1).gather(1, columns)
    return (queries.unsqueeze(1) - rows[indices]).norm(dim=2), indices


def _first_smallest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row, ascending, and their columns; the first columns on ties."""
    k = min(k, values.shape[1])
    largest = values.topk(k, largest=False).values.amax(1, keepdim=True)
    # topk promises no order among equals, so that its columns can't be used.
    below, level = values < largest, values == largest
    spare = k - below.sum(1, keepdim=True)
    kept = below | (level & (level.cumsum(1) <= spare))
    columns = kept.nonzero()[:, 1].view(-1, k)
    order = values.gather(1, columns).argsort(dim=1, stable=True)
    columns = columns.gather(1, order)
    return values.gather(1, columns), columns
