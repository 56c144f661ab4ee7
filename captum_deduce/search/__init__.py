"""The one loop, what a call asks of it, and how a search moves, stops and takes back."""

from captum_deduce.search.adaptive_descent import SHORTEST_STEP, AdaptiveDescent
from captum_deduce.search.columns import as_column
from captum_deduce.search.halving_descent import HalvingDescent
from captum_deduce.search.improvement import Improvement, LogDensity, improve
from captum_deduce.search.loop import (
    Evaluation,
    Procedure,
    SearchResult,
    State,
    beginners,
    run,
    stream,
)
from captum_deduce.search.losses import (
    LOSS_FLOOR,
    elastic_net,
    l1_norm,
    margin,
    relative_sum,
    squared_norm,
    target_log_probability,
    total_variation,
    untargeted_hinge,
    weighted_sum,
)
from captum_deduce.search.memory import smaller_batch
from captum_deduce.search.observation import Observer, observed
from captum_deduce.search.originals import runner_up, warn_of_broken_scores
from captum_deduce.search.pixel_descent import Objective, PixelDescent
from captum_deduce.search.pixels import Entries, Groups, Pixels, Sites
from captum_deduce.search.polishing import Polish, Polishing, polish
from captum_deduce.search.problem import (
    ANY_CLASS,
    Goal,
    Problem,
    argument_rows,
    confidence_of,
    is_success,
)
from captum_deduce.search.refinement import Reversal, refine
from captum_deduce.search.shrinkage_descent import ShrinkageDescent, Verdict, likeliest_other
from captum_deduce.search.steps import AdamStep, PixelStep, ShrinkageStep, refine_weight

__all__ = [
    "ANY_CLASS",
    "LOSS_FLOOR",
    "SHORTEST_STEP",
    "AdamStep",
    "AdaptiveDescent",
    "Entries",
    "Evaluation",
    "Goal",
    "Groups",
    "HalvingDescent",
    "Improvement",
    "LogDensity",
    "Objective",
    "Observer",
    "PixelDescent",
    "PixelStep",
    "Pixels",
    "Polish",
    "Polishing",
    "Problem",
    "Procedure",
    "Reversal",
    "SearchResult",
    "ShrinkageDescent",
    "ShrinkageStep",
    "Sites",
    "State",
    "Verdict",
    "argument_rows",
    "as_column",
    "beginners",
    "confidence_of",
    "elastic_net",
    "improve",
    "is_success",
    "l1_norm",
    "likeliest_other",
    "margin",
    "observed",
    "polish",
    "refine",
    "refine_weight",
    "relative_sum",
    "run",
    "runner_up",
    "smaller_batch",
    "squared_norm",
    "stream",
    "target_log_probability",
    "total_variation",
    "untargeted_hinge",
    "warn_of_broken_scores",
    "weighted_sum",
]
