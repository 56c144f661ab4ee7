"""A run on many processes or machines, by Ray Data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from captum_deduce import checks
from captum_deduce.bulk.folder import shard_name
from captum_deduce.bulk.shards import Counts
from captum_deduce.bulk.work import Work
from captum_deduce.classifiers import modules_of
from captum_deduce.explainers import CounterfactualExplainer
from captum_deduce.spectral import remove_spectral_normalization


@dataclass(frozen=True)
class RaySettings:
    """How Ray shares out a run.

    Workers are actors of Ray Data (``map_batches``). Each gets a copy of explainer and data set,
    which have to be picklable, and writes its own shards to ``out``, which has to be a folder that
    all machines see. Ray starts a worker that is lost anew and gives its task to another.

    Args:
        workers (int): How many actors. Default: 2
        cpus (float): Of each; as many threads has torch there, at least one. Default: 1.0
        gpus (float): Of each; with some, its explainer is moved to ``cuda``. Default: 0.0
        shards_per_task (int): Shards that a worker explains without a break; between tasks its
            batch runs empty. Default: 4

    Raises:
        TypeError: A number of the wrong kind.
        ValueError: One out of its range.
    """

    workers: int = 2
    cpus: float = 1.0
    gpus: float = 0.0
    shards_per_task: int = 4

    def __post_init__(self) -> None:
        checks.number("workers", self.workers, minimum=1, integer=True)
        checks.number("cpus", self.cpus, minimum=0)
        checks.number("gpus", self.gpus, minimum=0)
        checks.number("shards_per_task", self.shards_per_task, minimum=1, integer=True)


def ray_data() -> Any:
    """Import Ray, and start it on this machine unless it runs.

    Returns:
        module: ray, with ``ray.data``.

    Raises:
        ImportError: It is not installed; the message says how to.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("engine='ray' needs Ray: pip install 'captum-deduce[ray]'") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    return ray


def explain_with_ray(
    work: Work,
    spans: Iterable[range],
    settings: RaySettings,
    report: Callable[[Counts], None] | None = None,
) -> Counts:
    """Explain the images of some shards, and write these.

    Args:
        work (Work): With a map-style data set.
        spans (Iterable[range]): Of whole shards.
        settings (RaySettings): How they are shared out.
        report (Callable, optional): Called with the counts as they grow. Default: None

    Returns:
        Counts: What was done.

    Raises:
        ValueError: Explainer or data set that can't be sent to another process.
        ImportError: Ray is not installed.
        Exception: What a worker raised.
    """
    work = replace(work, explainer=sendable(work.explainer))
    tasks = [{"first": span.start, "stop": span.stop} for span in spans]
    total = Counts()
    if not tasks:
        return total
    for row in mapped(ShardWorker, work, tasks, settings):
        total.items += row["items"]
        total.pairs += row["pairs"]
        total.found += row["found"]
        total.failures += row["failures"]
        total.seconds_writing += row["seconds_writing"]
        if report is not None:
            report(total)
    return total


def mapped(
    worker: type[Any], work: Any, tasks: Sequence[dict[str, Any]], settings: RaySettings
) -> Iterator[dict[str, Any]]:
    """Let actors work through tasks.

    Args:
        worker (type): Called with ``work`` and ``settings``; what it makes is called with tasks, as
            columns, and returns rows, as columns.
        work (Any): What every actor has to know.
        tasks (Sequence[dict[str, Any]]): ``shards_per_task`` of them go to an actor at a time.
        settings (RaySettings): How they are shared out.

    Yields:
        dict[str, Any]: A row that an actor returned.

    Raises:
        ValueError: ``work`` can't be sent to another process.
    """
    ray = ray_data()
    try:
        known = ray.put((work, settings))
    except (TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"explainer and dataset must be such that they can be sent to other processes: {error}"
        ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    blocks = -(-len(tasks) // settings.shards_per_task)
    rows = ray.data.from_items(list(tasks), override_num_blocks=blocks).map_batches(
        worker,
        fn_constructor_args=(known,),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=settings.workers),
        num_cpus=settings.cpus,
        num_gpus=settings.gpus,
    )
    yield from rows.iter_rows()


class ShardWorker:
    """An actor that explains shards.

    Args:
        known (ray.ObjectRef): Of the :class:`Work` and the :class:`RaySettings`.
    """

    def __init__(self, known: Any) -> None:
        work: Work
        work, settings = received(known)
        self.work = replace(work, explainer=on_device(work.explainer, settings))

    def __call__(self, tasks: dict[str, Any]) -> dict[str, list[Any]]:
        """Explain the images of some shards, but for those that are there.

        Args:
            tasks (dict[str, Any]): ``first`` and ``stop`` of each shard, ascending.

        Returns:
            dict[str, list]: One row: what was done.
        """
        spans = map(range, tasks["first"].tolist(), tasks["stop"].tolist())
        # Those that another worker, which was lost later, has written.
        missing = [span for span in spans if not self._is_there(span)]
        # Opened here, as Ray may call from another thread than it makes the worker in.
        with self.work.stream() as stream:
            counts = self.work.explain(stream, missing)
        return {name: [value] for name, value in vars(counts).items()}

    def _is_there(self, span: range) -> bool:
        return (self.work.folder / shard_name(span.start // self.work.shard_size)).exists()


def received(known: Any) -> tuple[Any, RaySettings]:
    """Get what :func:`mapped` has sent, and set this process's threads.

    Args:
        known (ray.ObjectRef): What an actor was given.

    Returns:
        tuple[Any, RaySettings]: ``work`` and ``settings``.
    """
    import ray

    work, settings = ray.get(known)
    torch.set_num_threads(max(int(settings.cpus), 1))
    return work, settings


def sendable(explainer: CounterfactualExplainer) -> CounterfactualExplainer:
    """Copy an explainer such that it can be pickled: with bounded weights in plain layers.

    Args:
        explainer (CounterfactualExplainer): Of any method.

    Returns:
        CounterfactualExplainer: It computes the same; the explainer itself where that is enough.
    """
    copied: CounterfactualExplainer = plain_copy(explainer, _modules)
    return copied


def plain_copy(holder: Any, modules: Callable[[Any], list[nn.Module]]) -> Any:
    """Copy what holds modules such that they are without spectral normalisation.

    Args:
        holder (Any): Of modules, and perhaps of layers of theirs.
        modules (Callable): Finds the outermost modules of it.

    Returns:
        Any: ``holder`` itself where none of them has a parametrization.
    """
    if not any(map(_is_parametrized, modules(holder))):
        return holder
    copied = copy.deepcopy(holder)
    for module in modules(copied):
        remove_spectral_normalization(module)
    return copied


def on_device(explainer: CounterfactualExplainer, settings: RaySettings) -> CounterfactualExplainer:
    """Move an explainer to the GPU of a worker, if it has one.

    Args:
        explainer (CounterfactualExplainer): The worker's own; changed.
        settings (RaySettings): Of the run.

    Returns:
        CounterfactualExplainer: The same.
    """
    if settings.gpus:
        for module in _modules(explainer):
            module.to("cuda")
    return explainer


def _modules(explainer: CounterfactualExplainer) -> list[nn.Module]:
    """The outermost modules of the model, and of what is beside it."""
    beside = [value for value in vars(explainer).values() if isinstance(value, nn.Module)]
    return [*modules_of(explainer.forward_func), *beside]


def _is_parametrized(module: nn.Module) -> bool:
    return any(nn.utils.parametrize.is_parametrized(part) for part in module.modules())
