"""What was searched for and scored, kept in files named by all that it depends on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_deduce import storage
from captum_deduce._version import __version__
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.explainers import CounterfactualExplainer
from captum_deduce.storage import file_stem, fingerprint

_FORMAT = "captum-deduce run"


@dataclass(frozen=True)
class Run:
    """What an explainer found.

    Args:
        result (Counterfactuals): Of N pairs.
        seconds (Tensor): What the search took for each, N, float64; pairs that were searched for
            together share their time evenly.
    """

    result: Counterfactuals
    seconds: Tensor

    @classmethod
    def joined(cls, runs: Iterable[Run]) -> Run:
        """Put runs one behind the other.

        Args:
            runs (Iterable[Run]): At least one, of images of the same shape.

        Returns:
            Run: Of all their pairs.
        """
        parts = list(runs)
        return cls(
            Counterfactuals.concatenate(run.result for run in parts),
            torch.cat([run.seconds for run in parts]),
        )

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Run:
        """Undo :meth:`tensors`.

        Args:
            tensors (Mapping[str, Tensor]): What it returned.

        Returns:
            Run: The same.
        """
        rest: dict[str, Any] = dict(tensors)
        seconds = rest.pop("seconds")
        return cls(Counterfactuals(**rest), seconds)

    def tensors(self) -> dict[str, Tensor]:
        """Take the run apart.

        Returns:
            dict[str, Tensor]: Seconds and the fields of the result that are tensors, on the CPU.
        """
        named = {field.name: getattr(self.result, field.name) for field in fields(self.result)}
        found = {name: value.cpu() for name, value in named.items() if isinstance(value, Tensor)}
        return {**found, "seconds": self.seconds}


class Store:
    """A folder of runs and scores; what is in it is not made again.

    A file's name tells the settings, the weights of every model, the inputs and this package's
    version, so that another experiment finds what it shares with an earlier one, and nothing else.
    Work is cut into parts, each kept once it is done: what was interrupted goes on from there.

    Args:
        folder (Path): Where; made if it is missing.
        device (torch.device): Where the searches run.
        part (int, optional): Pairs in a part, searched for together. Default: 128
        show_progress (bool, optional): Draw progress bars. Default: False
    """

    def __init__(
        self, folder: Path, device: torch.device, part: int = 128, show_progress: bool = False
    ) -> None:
        self.folder = folder
        self.device = device
        self.part = part
        self.show_progress = show_progress
        self.made = 0
        self.reused = 0

    def search(
        self,
        name: str,
        explainer: CounterfactualExplainer,
        inputs: Tensor,
        target: Tensor,
        *,
        alone: bool = False,
    ) -> Run:
        """Search for counterfactuals, or read those that were found.

        Args:
            name (str): How the files' names begin.
            explainer (CounterfactualExplainer): On the store's device.
            inputs (Tensor): N x channels x height x width, at least one.
            target (Tensor): N classes.
            alone (bool, optional): Search for one pair at a time, and time it so. Default: False

        Returns:
            Run: Of all pairs, on the CPU.
        """
        size = 1 if alone else self.part
        settings = fingerprint(explainer, alone)

        def found(rows: Tensor) -> Run:
            def make() -> dict[str, Tensor]:
                started = time.perf_counter()
                result = explainer.generate(
                    inputs[rows].to(self.device), target[rows], show_progress=self.show_progress
                )
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                spent = (time.perf_counter() - started) / len(rows)
                return Run(result, torch.full((len(rows),), spent, dtype=torch.float64)).tensors()

            return Run.of(self._kept(name, (settings, inputs[rows], target[rows]), make))

        return Run.joined(found(rows) for rows in torch.split(torch.arange(len(inputs)), size))

    def scores(self, name: str, score: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Score images, or read their scores.

        Args:
            name (str): How the files' names begin.
            score (Callable): From N images to N scores, each of its image alone; a method of an
                object whose attributes are all that it depends on.
            images (Tensor): N x channels x height x width, at least one.

        Returns:
            Tensor: N scores, on the CPU.
        """
        settings = fingerprint(score)

        def found(rows: Tensor) -> Tensor:
            def make() -> dict[str, Tensor]:
                return {"scores": score(images[rows].to(self.device)).cpu()}

            return self._kept(name, (settings, images[rows]), make)["scores"]

        return torch.cat(
            [found(rows) for rows in torch.split(torch.arange(len(images)), self.part)]
        )

    def _kept(
        self, name: str, depends_on: tuple[object, ...], make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        digest = fingerprint(__version__, *depends_on)
        path = self.folder / f"{file_stem(name)}-{digest}.safetensors"
        try:
            tensors, metadata = storage.read(path, "run")
            if metadata.get("format") == _FORMAT:
                self.reused += 1
                return tensors
        except FileNotFoundError:
            pass
        except ValueError as error:
            print(f"Made anew: {error}")
        tensors = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        storage.write(path, tensors, {"format": _FORMAT})
        self.made += 1
        return tensors
