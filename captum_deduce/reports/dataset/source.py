"""What a report needs of a run, whoever keeps it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from captum_deduce.counterfactuals import Counterfactuals

if TYPE_CHECKING:
    from pandas import DataFrame


class ExplainedRun(Protocol):
    """A run over a data set, such as ``captum_deduce.bulk.read`` opens.

    Attributes:
        manifest (Mapping[str, Any]): How it was made: ``lower_bound`` and ``upper_bound`` as
            numbers or nested lists, ``store_images``, and what else is worth showing.
    """

    @property
    def manifest(self) -> Mapping[str, Any]:
        """How it was made."""

    @property
    def complete(self) -> bool:
        """Whether the whole data set was gone through."""

    @property
    def items_seen(self) -> int:
        """How many images of the data set were looked at."""

    @property
    def class_names(self) -> Sequence[str] | None:
        """The classes' names, where they are known."""

    @property
    def shape(self) -> Sequence[int]:
        """Channels, height and width of the images."""

    def table(self) -> DataFrame:
        """A row for each pair, and for each image that could not be explained."""

    def changes(self, rows: Any = None) -> Iterator[tuple[list[int], Tensor]]:
        """Go through changes, in parts.

        Args:
            rows (list[int], optional): Rows of the table. Default: None (all pairs that were
                explained)

        Yields:
            tuple[list[int], Tensor]: Rows, and their changes, N x channels x height x width, in
            input units.
        """

    def changed_entries(
        self, rows: Any = None
    ) -> Iterator[tuple[list[int], Tensor, Tensor, Tensor]]:
        """Go through the entries that changed, in parts.

        Args:
            rows (list[int], optional): Rows of the table. Default: None (all pairs that were
                explained)

        Yields:
            tuple[list[int], Tensor, Tensor, Tensor]: Rows; and of each entry that changed the
            position of its row in that list, its place in the flattened image, and its change, in
            input units.
        """

    def counterfactuals(
        self,
        rows: Any = None,
        *,
        dataset: Any = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> Counterfactuals:
        """Read pairs with their images.

        Args:
            rows (list[int], optional): Rows of the table. Default: None (all pairs that were
                explained)
            dataset (Any, optional): For the originals. Default: None (the run stores them)
            transform (Callable, optional): As it was given to the run. Default: None

        Returns:
            Counterfactuals: In the order of the rows.
        """
