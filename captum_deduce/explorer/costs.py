"""What counterfactuals of the images cost: as far as it is known, and found out for more."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.explainers import CounterfactualExplainer
from captum_deduce.explorer.collection import Collection
from captum_deduce.explorer.turns import Turns
from captum_deduce.explorer.work import Work
from captum_deduce.search import Evaluation

_BATCH = 16
"""Images that are explained together: fewer take longer, of more the first costs come later."""


class Costs:
    """A number for each image and explainer; all visitors find out for one another.

    Args:
        number (int): Of images.
        given (Tensor or list[float], optional): N, NaN where it is not known: for explainers of
            which nothing has been found out here. Default: None (not known)

    Raises:
        ValueError: Another number of costs than of images.
    """

    def __init__(self, number: int, given: Tensor | list[float] | None = None) -> None:
        costs = torch.full((number,), torch.nan, dtype=torch.float64)
        if given is not None:
            costs = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
            if costs.shape != (number,):
                raise ValueError(
                    f"costs must hold one number per image ({number}), got shape "
                    f"{tuple(costs.shape)}"
                )
        self._given = costs
        self._found: dict[str, Tensor] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> Tensor:
        """Say what is known.

        Args:
            name (str): The explainer's.

        Returns:
            Tensor: N, float64: an L1, or what was given; infinite where no counterfactual was
            found, NaN where nobody has searched.
        """
        with self._lock:
            return self._found.get(name, self._given).clone()

    def unknown(self, name: str, rows: Sequence[int]) -> list[int]:
        """Find images whose cost is not known.

        Args:
            name (str): The explainer's.
            rows (Sequence[int]): Among these.

        Returns:
            list[int]: Their rows, in the same order.
        """
        costs = self.of(name)
        return [row for row in rows if math.isnan(costs[row])]

    def note(self, name: str, rows: Sequence[int], result: Counterfactuals) -> None:
        """Take note of counterfactuals, each of the class that suggests itself.

        Args:
            name (str): The explainer's.
            rows (Sequence[int]): Whose.
            result (Counterfactuals): Of these images, in this order.
        """
        found = result.l1().double().where(result.success, torch.inf).cpu()
        with self._lock:
            costs = self._found.setdefault(name, torch.full_like(self._given, torch.nan))
            costs[list(rows)] = found


class Measurement(Work):
    """Finds out what counterfactuals cost, many at a time.

    Args:
        costs (Costs): Where it notes them.
        collection (Collection): The images.
        name (str): The explainer's.
        explainer (CounterfactualExplainer): Of that name.
        rows (Sequence[int]): Which images; each is turned into the class that suggests itself.
        turns (Turns, optional): Where it waits for its turn. Default: None (it need not wait)

    Attributes:
        done (int): Images so far.
    """

    def __init__(
        self,
        costs: Costs,
        collection: Collection,
        name: str,
        explainer: CounterfactualExplainer,
        rows: Sequence[int],
        turns: Turns | None = None,
    ) -> None:
        super().__init__(turns)
        self.costs, self.collection = costs, collection
        self.name, self.explainer, self.rows = name, explainer, list(rows)
        self.done = 0

    @property
    def progress(self) -> int:
        """Images so far."""
        return self.done

    def do(self) -> None:
        """Explain them."""
        for begin in range(0, len(self.rows), _BATCH):
            rows = self.rows[begin : begin + _BATCH]
            images = self.collection.images[rows].to(self.collection.device)
            targets = [self.collection.default_target(row) for row in rows]
            result = self.explainer.generate(images, targets, show_progress=False)
            self.costs.note(self.name, rows, result)
            self.done += len(rows)

    def see(self, what: str, evaluation: Evaluation) -> None:
        """Leave evaluations alone.

        Args:
            what (str): What they belong to.
            evaluation (Evaluation): One of them.
        """
