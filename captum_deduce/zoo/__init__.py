"""Models trained by recipe and cached, and explainers made of them."""

from typing import TYPE_CHECKING, Any

from captum_deduce.zoo.recipes import (
    COMPARISON,
    RECIPES,
    RECONSTRUCTIONS,
    SMOKE,
    SMOKE_COMPARISON,
    SMOKE_TRAINING_IMAGES,
    ComparisonRecipe,
    Recipe,
    ReconstructionRecipe,
)

if TYPE_CHECKING:
    from captum_deduce.zoo.checkpoint import (
        Checkpoint,
        Settings,
        cache_path,
        load_checkpoint,
        save_checkpoint,
        training_path,
    )
    from captum_deduce.zoo.classifiers import (
        continue_training,
        describe_classifier,
        fit_classifier,
        forget_training,
        obtain_classifier,
        plan_classifier,
    )
    from captum_deduce.zoo.explainers import (
        DISTRACTORS,
        PIECE_SETTINGS,
        make_explainer,
        make_patch_swap,
        make_piece,
    )
    from captum_deduce.zoo.prototypes import NEIGHBOURS, make_prototypes
    from captum_deduce.zoo.reconstructions import (
        RECONSTRUCTION_MODELS,
        fit_reconstruction,
        obtain_reconstruction,
    )
    from captum_deduce.zoo.threads import torch_threads

__all__ = [
    "COMPARISON",
    "DISTRACTORS",
    "NEIGHBOURS",
    "PIECE_SETTINGS",
    "RECIPES",
    "RECONSTRUCTIONS",
    "RECONSTRUCTION_MODELS",
    "SMOKE",
    "SMOKE_COMPARISON",
    "SMOKE_TRAINING_IMAGES",
    "Checkpoint",
    "ComparisonRecipe",
    "Recipe",
    "ReconstructionRecipe",
    "Settings",
    "cache_path",
    "continue_training",
    "describe_classifier",
    "fit_classifier",
    "fit_reconstruction",
    "forget_training",
    "load_checkpoint",
    "make_explainer",
    "make_patch_swap",
    "make_piece",
    "make_prototypes",
    "obtain_classifier",
    "obtain_reconstruction",
    "plan_classifier",
    "save_checkpoint",
    "torch_threads",
    "training_path",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for: the command line's help reads recipes."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module: Any
    if name in ("NEIGHBOURS", "make_prototypes"):
        from captum_deduce.zoo import prototypes as module
    elif name in (
        "DISTRACTORS",
        "PIECE_SETTINGS",
        "make_explainer",
        "make_patch_swap",
        "make_piece",
    ):
        from captum_deduce.zoo import explainers as module
    elif name == "torch_threads":
        from captum_deduce.zoo import threads as module
    elif name in ("RECONSTRUCTION_MODELS", "fit_reconstruction", "obtain_reconstruction"):
        from captum_deduce.zoo import reconstructions as module
    elif name.endswith(("_classifier", "_training")):
        from captum_deduce.zoo import classifiers as module
    else:
        from captum_deduce.zoo import checkpoint as module
    found = getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
