r"""What an evaluation found, as numbers, text, JSON or a data frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from statistics import stdev
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_deduce import checks
from captum_deduce.metrics.paired_tests import UNITS, PairedTest, means_by, paired_tests_on

if TYPE_CHECKING:
    import pandas as pd

FAILURE_RATE = "failure rate"
"""The column that every table has."""

_NARROWEST = 3
"""Characters of a column: its rule needs three, or some readers of Markdown see no table."""


@dataclass(frozen=True)
class Measured:
    """A metric's values for one result, on the pairs on which it was measured.

    Args:
        values (Tensor): One per such pair, float64, on the CPU.
        pairs (Tensor): The pairs' numbers, ascending, int64.
    """

    values: Tensor
    pairs: Tensor


@dataclass(frozen=True)
class Summary:
    """One cell of the table.

    Args:
        mean (float or None): Over the pairs; None where there are none.
        deviation (float or None): Sample standard deviation (divisor n - 1) of the sets' means;
            None with fewer than two sets, or where a set has none of the pairs.
        pairs (int): How many pairs the mean is over.
        set_means (tuple[float, ...]): Mean over the pairs of each set, in ascending order of the
            sets' numbers; empty without sets, or where a set has none of the pairs.
    """

    mean: float | None
    deviation: float | None
    pairs: int
    set_means: tuple[float, ...]


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationTable:
    """A row per result and a column per metric; ``print`` it, or take a cell: ``table["A", "L0"]``.

    Made by :func:`~captum_deduce.metrics.evaluate`; notebooks draw it as a table.

    Args:
        measured (Mapping[str, Mapping[str, Measured]]): By result and metric; the same metrics for
            each result, the last :data:`FAILURE_RATE`, a share from 0 to 1.
        pairs (str): ``"common"`` (pairs on which all results succeeded) or ``"own"``.
        originals (Tensor): Which original each of the N pairs is of, int64.
        on_all_pairs (Sequence[str]): Metrics that were measured on all pairs, failed ones too.
        sets (Tensor, optional): Which set each of the N pairs is of, int64. Default: None
        already (Mapping[str, int], optional): By result, how many pairs enter none of its columns,
            as the original was at the goal already. Default: none
    """

    measured: Mapping[str, Mapping[str, Measured]]
    pairs: str
    originals: Tensor
    on_all_pairs: Sequence[str]
    sets: Tensor | None = None
    already: Mapping[str, int] = field(default_factory=dict)

    @property
    def results(self) -> list[str]:
        """Names of the rows."""
        return list(self.measured)

    @property
    def metrics(self) -> list[str]:
        """Names of the columns."""
        return list(next(iter(self.measured.values())))

    def __getitem__(self, cell: tuple[str, str]) -> Summary:
        """Sum up a metric of a result.

        Args:
            cell (tuple[str, str]): The result's name and the metric's.

        Returns:
            Summary: Mean, standard deviation over sets, number of pairs.

        Raises:
            KeyError: No such row or column.
        """
        result, metric = cell
        if result not in self.measured or metric not in self.measured[result]:
            raise KeyError(
                f"no cell {cell!r}; the rows are {self.results}, the columns {self.metrics}"
            )
        found = self.measured[result][metric]
        pairs = len(found.values)
        mean = found.values.mean().item() if pairs else None
        if self.sets is None or {*self.sets[found.pairs].tolist()} < {*self.sets.tolist()}:
            return Summary(mean, None, pairs, ())
        set_means = means_by(self.sets[found.pairs], found.values).tolist()
        deviation = stdev(set_means) if len(set_means) > 1 else None
        return Summary(mean, deviation, pairs, tuple(set_means))

    def paired_tests(self, unit: str = "original") -> list[PairedTest]:
        """Compare every two results in every metric, on the pairs on which both were measured.

        Args:
            unit (str, optional): What counts as one observation. ``"original"``: the mean
                difference over an original's pairs, as pairs with the same original are not
                independent. ``"pair"``: each pair, which makes p-values too small. Default:
                "original"

        Returns:
            list[PairedTest]: By metric; empty with one result.

        Raises:
            ValueError: Another ``unit``.
        """
        checks.choice("unit", unit, UNITS)
        return [
            self._paired_test(metric, first, second, unit)
            for metric in self.metrics
            for first, second in combinations(self.results, 2)
        ]

    def _paired_test(self, metric: str, first: str, second: str, unit: str) -> PairedTest:
        one, other = (self.measured[name][metric] for name in (first, second))
        both = one.pairs[torch.isin(one.pairs, other.pairs)]
        differences = (
            one.values[torch.isin(one.pairs, both)] - other.values[torch.isin(other.pairs, both)]
        )
        originals = self.originals[both] if unit == "original" else None
        units, t_pvalue, wilcoxon_pvalue = paired_tests_on(differences, originals)
        return PairedTest(
            metric=metric,
            first=first,
            second=second,
            difference=differences.mean().item() if len(both) else None,
            pairs=len(both),
            units=units,
            t_pvalue=t_pvalue,
            wilcoxon_pvalue=wilcoxon_pvalue,
        )

    def to_dict(self) -> dict[str, Any]:
        """Collect all numbers, paired tests too, in a form that ``json.dumps`` takes.

        Returns:
            dict[str, Any]: ``pairs`` (which were used), ``num_pairs`` (N), ``already`` (how many
            pairs of each result were there already), ``sets`` (their numbers, ascending, or None),
            ``results`` (by name and metric the fields of :class:`Summary`) and ``paired_tests``
            (the fields of :class:`~captum_deduce.metrics.PairedTest`).
        """
        return {
            "pairs": self.pairs,
            "num_pairs": len(self.originals),
            "already": dict(self.already),
            "sets": None if self.sets is None else sorted(set(self.sets.tolist())),
            "results": {
                result: {metric: asdict(self[result, metric]) for metric in self.metrics}
                for result in self.results
            },
            "paired_tests": [asdict(test) for test in self.paired_tests()],
        }

    def to_pandas(self) -> pd.DataFrame:
        """Make a data frame; pandas must be installed.

        Returns:
            pandas.DataFrame: A row per result; columns are pairs of a metric and ``"mean"``,
            ``"deviation"`` or ``"pairs"``; what :class:`Summary` has no value of is NaN.

        Raises:
            ImportError: There is no pandas.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "to_pandas needs pandas; install it with pip install pandas"
            ) from error
        columns: dict[tuple[str, str], list[float]] = {}
        for metric in self.metrics:
            cells = [self[result, metric] for result in self.results]
            columns[metric, "mean"] = [_or_nan(cell.mean) for cell in cells]
            columns[metric, "deviation"] = [_or_nan(cell.deviation) for cell in cells]
            columns[metric, "pairs"] = [cell.pairs for cell in cells]
        return pd.DataFrame(columns, index=pd.Index(self.results, name="result"))

    def to_markdown(self) -> str:
        """Write the means as a Markdown table, with a line below it that says what they are over.

        Returns:
            str: A row per result, "-" where there is no mean; standard deviations over sets stand
            in brackets.
        """
        columns = [["", *map(_escaped, self.results)]]
        columns += [[_escaped(metric), *self._cells(metric)] for metric in self.metrics]
        widths = [max(_NARROWEST, *map(len, column)) for column in columns]
        lines = []
        for row in zip(*columns, strict=True):
            cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
            lines.append(f"| {' | '.join(cells)} |")
        rules = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
        lines.insert(1, f"| {' | '.join(rules)} |")
        return "\n".join([*lines, "", self._caption()])

    def __str__(self) -> str:
        return self.to_markdown()

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def _cells(self, metric: str) -> list[str]:
        """Format a column: a share as 98.5%, else two decimals, up to four for small numbers."""
        scale, unit = (100.0, "%") if metric == FAILURE_RATE else (1.0, "")
        summaries = [self[result, metric] for result in self.results]
        smallest = min((abs(cell.mean) * scale for cell in summaries if cell.mean), default=1.0)
        decimals = 1 if unit else min(max(2, 2 - math.floor(math.log10(smallest))), 4)
        return [
            "-"
            if cell.mean is None
            else f"{cell.mean * scale:.{decimals}f}{unit}"
            + ("" if cell.deviation is None else f" ({cell.deviation * scale:.{decimals}f})")
            for cell in summaries
        ]

    def _caption(self) -> str:
        everywhere = [*self.on_all_pairs, FAILURE_RATE]
        counts = {
            result: len(columns[metric].pairs)
            for result, columns in self.measured.items()
            for metric in self.metrics
            if metric not in everywhere
        }
        already = {name: count for name, count in self.already.items() if count}
        which = "all pairs but these" if already else f"all {len(self.originals)} pairs"
        parts = [self._means_over(counts)] if counts else []
        if already:
            parts.append(f"there already, and in no mean: {_listed(already)}")
        parts.append(f"{', '.join(everywhere)} over {which}")
        num_sets = 0 if self.sets is None else len(set(self.sets.tolist()))
        if num_sets > 1:
            parts.append(f"in brackets standard deviations of the {num_sets} sets' means")
        return "; ".join(parts) + "."

    def _means_over(self, counts: Mapping[str, int]) -> str:
        """Say which pairs the means are over, and who has none."""
        total, without = len(self.originals), [name for name, count in counts.items() if not count]
        if len(without) == len(counts):
            return f"No counterfactual was found, of {total} pairs"
        if self.pairs == "own":
            return f"Means over the pairs on which each succeeded, of {total} ({_listed(counts)})"
        who = "all succeeded" if len(counts) > 1 else "a counterfactual was found"
        if without:
            who += f" but {', '.join(without)}, which found none"
        return f"Means over the {max(counts.values())} of {total} pairs on which {who}"


def _escaped(name: str) -> str:
    """Write a name so that it ends no cell."""
    return name.replace("|", "\\|")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
