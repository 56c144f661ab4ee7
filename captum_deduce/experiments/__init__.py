"""The DeDUCE paper's tables and figures, made anew: what ``captum-deduce reproduce`` runs."""

from collections.abc import Callable

from captum_deduce.experiments.figures import figure2, figure3, figure4, figure5
from captum_deduce.experiments.frontier import frontier
from captum_deduce.experiments.plan import SIZES, Cases, Descent, OracleRecipe, Scoring, Size
from captum_deduce.experiments.runs import Run, Store
from captum_deduce.experiments.tables import table1, table2, table3, table4, table5
from captum_deduce.experiments.trained import Trained
from captum_deduce.reports import Report

EXPERIMENTS: dict[str, Callable[[Trained, Store], Report]] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "table5": table5,
    "fig2": figure2,
    "fig3": figure3,
    "fig4": figure4,
    "fig5": figure5,
    "frontier": frontier,
}
"""What can be reproduced, by the names of the command line."""

__all__ = [
    "EXPERIMENTS",
    "SIZES",
    "Cases",
    "Descent",
    "OracleRecipe",
    "Run",
    "Scoring",
    "Size",
    "Store",
    "Trained",
    "figure2",
    "figure3",
    "figure4",
    "figure5",
    "frontier",
    "table1",
    "table2",
    "table3",
    "table4",
    "table5",
]
