"""Pictures of counterfactuals, and what Captum's own visualisation needs from us."""

from captum_deduce.visualization.animations import save_animation
from captum_deduce.visualization.captum_maps import (
    captum_attribution,
    captum_image,
    visualize_attribution,
)
from captum_deduce.visualization.class_names import ClassNames, read_class_names
from captum_deduce.visualization.comparisons import plot_counterfactuals
from captum_deduce.visualization.feature_space import plot_density
from captum_deduce.visualization.grids import plot_grid
from captum_deduce.visualization.images import plot_images
from captum_deduce.visualization.notebook import notebook_html
from captum_deduce.visualization.pixels import strongest
from captum_deduce.visualization.sheet import CHANGE_COLORS, new_figure, own_style
from captum_deduce.visualization.swaps import plot_swaps
from captum_deduce.visualization.traces import Trace, trace_trajectory
from captum_deduce.visualization.trajectories import plot_trajectory

__all__ = [
    "CHANGE_COLORS",
    "ClassNames",
    "Trace",
    "captum_attribution",
    "captum_image",
    "new_figure",
    "notebook_html",
    "own_style",
    "plot_counterfactuals",
    "plot_density",
    "plot_grid",
    "plot_images",
    "plot_swaps",
    "plot_trajectory",
    "read_class_names",
    "save_animation",
    "strongest",
    "trace_trajectory",
    "visualize_attribution",
]
