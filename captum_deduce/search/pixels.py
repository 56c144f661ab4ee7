"""What moves as one: an entry, a place with all its channels, or a group of entries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captum_deduce.search import loop


class Pixels(ABC):
    """How the entries of an image form pixels: what a step chooses, moves, counts, takes back.

    A value for each pixel has as many dimensions as the images, so that numbers of the images, A x
    1 x ..., broadcast over it.
    """

    @abstractmethod
    def total(self, values: Tensor, counted: Tensor | None = None) -> Tensor:
        """Add up the values of each pixel's entries.

        Args:
            values (Tensor): A x channels x ...
            counted (Tensor, optional): Bool, of the same shape: the entries to add up. The total of
                a pixel without any is undefined. Default: None (all)

        Returns:
            Tensor: A value for each pixel.
        """

    @abstractmethod
    def any(self, flags: Tensor) -> Tensor:
        """Find the pixels of which an entry is flagged.

        Args:
            flags (Tensor): Bool, A x channels x ...

        Returns:
            Tensor: Bool, a value for each pixel.
        """

    @abstractmethod
    def spread(self, values: Tensor) -> Tensor:
        """Give each entry the value of its pixel.

        Args:
            values (Tensor): A value for each pixel.

        Returns:
            Tensor: What broadcasts to A x channels x ...
        """

    def of(self, state: loop.State) -> Pixels:
        """The pixels of the active pairs.

        Args:
            state (dict[str, Tensor]): Of these pairs, with what :meth:`Problem.rows` put there.

        Returns:
            Pixels: Theirs.
        """
        return self


@dataclass(frozen=True)
class Entries(Pixels):
    """Every entry is a pixel of its own, as in the paper."""

    def total(self, values: Tensor, counted: Tensor | None = None) -> Tensor:
        """Return the values, see :meth:`Pixels.total`."""
        return values

    def any(self, flags: Tensor) -> Tensor:
        """Return the flags, see :meth:`Pixels.any`."""
        return flags

    def spread(self, values: Tensor) -> Tensor:
        """Return the values, see :meth:`Pixels.spread`."""
        return values


@dataclass(frozen=True)
class Sites(Pixels):
    """A place is a pixel, with all its channels (dimension 1): values are A x 1 x ..."""

    def total(self, values: Tensor, counted: Tensor | None = None) -> Tensor:
        """Add up the channels, see :meth:`Pixels.total`."""
        values = values if counted is None else values * counted
        return values.sum(1, keepdim=True)

    def any(self, flags: Tensor) -> Tensor:
        """Look at all channels, see :meth:`Pixels.any`."""
        return flags.any(1, keepdim=True)

    def spread(self, values: Tensor) -> Tensor:
        """Return the values, which broadcast, see :meth:`Pixels.spread`."""
        return values


@dataclass(frozen=True, eq=False)
class Groups(Pixels):
    """Entries with the same number are a pixel: values are A x groups x 1 x ...

    On a CPU an image's entries are added up one after the other, whatever the batch. On a GPU they
    are in no fixed order, so that totals may differ in their last digits from run to run, unless
    ``torch.use_deterministic_algorithms`` is on.

    Args:
        index (Tensor): The number of each entry's group, from 0, int64: of the shape of one input,
            or A x ... where each image has its own.
        count (int): The number of groups, of the image with most of them.
    """

    index: Tensor
    count: int

    def total(self, values: Tensor, counted: Tensor | None = None) -> Tensor:
        """Add up the entries of each group, see :meth:`Pixels.total`."""
        values = values if counted is None else values * counted
        totals = values.new_zeros(len(values), self.count)
        totals.scatter_add_(1, self._flat_index(values), values.flatten(1))
        return _as_values(totals, values)

    def any(self, flags: Tensor) -> Tensor:
        """Look at all entries of each group, see :meth:`Pixels.any`."""
        # One group more, for the entries without a flag.
        flagged = torch.where(flags.flatten(1), self._flat_index(flags), self.count)
        found = flags.new_zeros(len(flags), self.count + 1).scatter_(1, flagged, True)
        return _as_values(found[:, : self.count], flags)

    def spread(self, values: Tensor) -> Tensor:
        """Give each entry the value of its group, see :meth:`Pixels.spread`."""
        index = self._flat_index(values)
        shape = self.index.shape[self.index.dim() - values.dim() + 1 :]
        return values.flatten(1).gather(1, index).view(len(values), *shape)

    def of(self, state: loop.State) -> Groups:
        """The groups of the active pairs, see :meth:`Pixels.of`."""
        return replace(self, index=state["groups"]) if "groups" in state else self

    def _flat_index(self, images: Tensor) -> Tensor:
        if self.index.dim() == images.dim():
            return self.index.flatten(1)
        return self.index.flatten().expand(len(images), -1)


def _as_values(rows: Tensor, images: Tensor) -> Tensor:
    return rows.view(*rows.shape, *[1] * (images.dim() - 2))
