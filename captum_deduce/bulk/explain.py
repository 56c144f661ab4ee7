"""Explain a whole data set, into a folder that can be gone on with."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks, progress
from captum_deduce.bulk.bar import Bar
from captum_deduce.bulk.folder import RunFolder, locked
from captum_deduce.bulk.manifest import describe_run
from captum_deduce.bulk.ray_engine import RaySettings, explain_with_ray
from captum_deduce.bulk.reader import Run
from captum_deduce.bulk.schema import Layout, arrow
from captum_deduce.bulk.source import LABEL_NAMES, Source
from captum_deduce.bulk.targets import Chooser, Plan
from captum_deduce.bulk.work import Work
from captum_deduce.explainers import CounterfactualExplainer

ENGINES = ("local", "ray")
"""Who computes a run, this process or those of Ray."""


def explain_dataset(
    explainer: CounterfactualExplainer,
    dataset: Any,
    out: str | os.PathLike[str],
    *,
    targets: str | Chooser = "label",
    only: str | Chooser = "errors",
    transform: Callable[[Any], Any] | None = None,
    class_names: Sequence[str] | None = None,
    mask: Tensor | None = None,
    feature_mask: Tensor | None = None,
    shard_size: int = 1000,
    store_images: bool = False,
    num_workers: int | None = None,
    internal_batch_size: int = 128,
    overwrite: bool = False,
    engine: str = "local",
    rank: int | None = None,
    world_size: int | None = None,
    show_progress: bool | None = None,
    **engine_settings: Any,
) -> Run:
    r"""Explain every image of a data set that is asked for, into Parquet files of a folder.

    By default every mistake is turned into its label. The batch that the model sees stays full
    across the data set: a pair that ends makes room for the next one. Each ``shard_size`` images
    become a file as soon as their last pair has ended. Whatever stops the process, Ctrl-C, a closed
    terminal, ``kill -9``, a full disk: the files that are there are complete, and the same call
    goes on with the others. In float64 it then gives the same counterfactuals to the last bit; in
    float32 a near-tie may choose another pixel in another batch, as everywhere in this package.

    An image that can't be read, is not finite, lies outside the bounds, or has a target that can't
    be reached gets a row with the reason, and the run goes on.

    Args:
        explainer (CounterfactualExplainer): Of any method, with its settings.
        dataset (Any): Map-style (``dataset[i]``, ``len(dataset)``) or
            iterable; torch's, torchvision's, Hugging Face's, or a ``DataLoader`` that does not
            shuffle. Items are (image, label), an image, or a mapping with ``"image"`` and
            ``"label"``. Images are tensors as the model takes them, all of one shape; pictures and
            8-bit arrays become tensors from 0 to 1. It must give the same images each time.
        out (str or Path): The folder of the run; made if it is missing.
        targets (str or Callable, optional): ``"label"``: the image's own label; ``"runner-up"``:
            the likeliest class beside the predicted one; ``"all"``: every class but the predicted
            one; or a function of images (N x channels x height x width), labels (N, -1 where there
            is none) and scores (N x C) that returns for each image a class or a list of classes.
            Default: "label"
        only (str or Callable, optional): ``"errors"``: images whose label is not the prediction;
            ``"all"``; or a function of the same arguments that returns N bools. Default: "errors"
        transform (Callable, optional): Applied to each image, without its label. Default: None
        class_names (Sequence[str], optional): Default: None (the data set's own, if it has some)
        mask (Tensor, optional): 1 where pixels may change, one for all images, see
            :meth:`~captum_deduce.CounterfactualExplainer.generate`. Default: None (all may)
        feature_mask (Tensor, optional): Entries that move as one, for all images. Default: None
        shard_size (int, optional): Images of the data set in a file: what a process that dies may
            lose. Default: 1000
        store_images (bool, optional): Store original and counterfactual, too, as PNG for people and
            the original's numbers for :meth:`Run.counterfactuals`. Images of 1 channel or 3.
            Default: False
        num_workers (int, optional): Processes that read images. Default: None (a ``DataLoader``'s
            own, else 0)
        internal_batch_size (int, optional): Most pairs that the model sees at once. Default: 128
        overwrite (bool, optional): Delete the run that is in ``out``, and nothing else, and print
            what was deleted. Default: False
        engine (str, optional): ``"local"``: this process; ``"ray"``: see
            :class:`captum_deduce.bulk.RaySettings`. Default: "local"
        rank (int, optional): Which of ``world_size`` processes this is, where several share a
            folder: each takes its own shards. Default: None (as ``torch.distributed`` has it, if it
            is initialised; else 0)
        world_size (int, optional): See ``rank``. Default: None (likewise; else 1)
        show_progress (bool, optional): Draw a bar over the images, with pairs a second and how many
            were found. Default: None (after two seconds, in a terminal or a notebook)
        **engine_settings (Any): Of :class:`captum_deduce.bulk.RaySettings`.

    Returns:
        Run: What is in the folder now. ``run.failures`` counts what could not be explained.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: An argument that does not fit, a model that ``generate`` would refuse, a
            folder with a run of other settings (the message names them), or one that another
            process is writing to.
        OSError: The folder can't be written to, or the disk is full; what is there stays.
        ImportError: pyarrow or filelock is not installed.

    Warns:
        UserWarning: A damaged shard is made anew.

    Examples::

        >>> from captum_deduce import JSMA
        >>> from captum_deduce.datasets import load_digits
        >>> test = load_digits().test
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> folder = getfixture("tmp_path") / "mistakes"
        >>> run = explain_dataset(JSMA(model), test[:40], folder, shard_size=10)
        >>> run.complete, run.items_seen
        (True, 40)
        >>> bool((run.table()["prediction"] != run.table()["label"]).all())
        True
    """
    arrow()
    if not isinstance(explainer, CounterfactualExplainer):
        raise TypeError(
            f"explainer must be a CounterfactualExplainer, got {type(explainer).__name__}"
        )
    plan = Plan(targets, only)
    checks.number("shard_size", shard_size, minimum=1, integer=True)
    if num_workers is not None:
        checks.number("num_workers", num_workers, minimum=0, integer=True)
    checks.number("internal_batch_size", internal_batch_size, minimum=1, integer=True)
    checks.flag("store_images", store_images)
    checks.flag("overwrite", overwrite)
    checks.choice("engine", engine, ENGINES)
    progress.shown(show_progress)
    rank, world_size = _place(rank, world_size)
    if overwrite and world_size > 1:
        raise ValueError("overwrite must be False where several processes share the folder")
    if engine_settings and engine == "local":
        raise TypeError(f"engine='local' has no argument {', '.join(engine_settings)}")
    shared_out = RaySettings(**engine_settings)
    source = Source(dataset, transform, num_workers)
    if engine == "ray" and not source.indexed:
        raise ValueError(
            "dataset must be map-style for engine='ray', as workers read images by position, got "
            f"{type(dataset).__name__}"
        )
    example, layout = _looked_at(source, plan, store_images)
    work = Work(
        explainer=explainer,
        source=source,
        example=example,
        plan=plan,
        layout=layout,
        folder=Path(out),
        shard_size=shard_size,
        internal_batch_size=internal_batch_size,
        mask=mask,
        feature_mask=feature_mask,
    )
    names = source.class_names if class_names is None else list(class_names)
    with ExitStack() as held:
        # So that the model is tried before anything is written.
        stream = held.enter_context(work.stream())
        if engine == "ray":
            held.close()  # workers open their own, of the model as it was
        held.enter_context(locked(work.folder, rank))
        folder = RunFolder(work.folder, rank, world_size)
        if overwrite and (said := folder.delete()):
            print(said)
        folder.open(describe_run(work, names))
        for reason in folder.clean():
            warnings.warn(reason, stacklevel=2)
        try:
            with Bar(source.length, folder.items_seen(), show_progress) as bar:
                spans = folder.missing(source.length, shard_size)
                if engine == "ray":
                    explain_with_ray(work, spans, shared_out, bar)
                else:
                    work.explain(stream, spans, bar)
        finally:
            folder.close(source.length)
    return Run(work.folder)


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Which of how many processes this is."""
    if (rank is None) != (world_size is None):
        raise ValueError(
            f"rank and world_size must be given together, got rank={rank} and "
            f"world_size={world_size}"
        )
    if rank is None or world_size is None:
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1
    checks.number("world_size", world_size, minimum=1, integer=True)
    checks.number("rank", rank, minimum=0, maximum=world_size - 1, integer=True)
    return rank, world_size


def _looked_at(source: Source, plan: Plan, store_images: bool) -> tuple[Tensor, Layout]:
    """The first image that can be read, and what it says of the rows."""
    item = source.example()
    if item.image is None or item.image.dim() < 1:
        raise ValueError("dataset must hold images, channels x height x width, got single numbers")
    if plan.needs_labels and item.label is None:
        raise ValueError(
            "dataset must hold labels, for targets='label' and for only='errors', but image "
            f"{item.index} has none; items are (image, label), or mappings with one of the keys "
            f"{', '.join(LABEL_NAMES)}"
        )
    shape = tuple(item.image.shape)
    if store_images and (len(shape) != 3 or shape[0] not in (1, 3)):
        raise ValueError(f"store_images must be False for images of the shape {shape}: no pictures")
    return item.image, Layout(shape, item.image.dtype, store_images)
