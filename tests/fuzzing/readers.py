"""Every reader of the package: a right file of each, how it is read, what is then held of it."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captum_deduce import ClassGaussianMixture, Counterfactuals, bulk, datasets, storage
from captum_deduce.commands.given import read_names
from captum_deduce.commands.image_files import read_images, read_mask
from captum_deduce.density import ClassHurdles
from captum_deduce.explorer import uploads
from captum_deduce.models import VAE, SmallCNN
from captum_deduce.prototypes import PrototypeIndex
from captum_deduce.reports import report_html, report_run
from captum_deduce.study import StudyKey, analyse_study, read_answers
from captum_deduce.training import train_classifier
from captum_deduce.zoo import Checkpoint, Settings, load_checkpoint, save_checkpoint
from tests.bulk.test_reader import made_up_run
from tests.study import made_up


@dataclass(frozen=True)
class Reader:
    """What reads files, and what it is tried with.

    Args:
        name: of the reader.
        form: of its files, one of `mutations.EDITS`.
        write: writes right files to a folder and returns those that are to be damaged.
        use: reads the file that was damaged, or its folder, and uses what it got; raises
            `ValueError` or `OSError` for a bad file, and `AssertionError` where what was read is
            not well formed.
        claim: the bytes that the file says its content takes; by default as many as it has.
        named: whether errors have to name the file, which is not for someone who sent it.
    """

    name: str
    form: str
    write: Callable[[Path], Sequence[Path]]
    use: Callable[[Path], object]
    claim: Callable[[Path], int] = lambda path: path.stat().st_size
    named: bool = True


class UnusableError(AssertionError):
    """What was read without an error fails when it is used."""


def used(read: Any, *uses: Callable[[Any], object]) -> Any:
    """Use what was read; an error now comes too late."""
    for use in uses:
        try:
            use(read)
        except Exception as error:
            raise UnusableError(f"{type(error).__name__}: {error}") from error
    return read


def holds(condition: object, what: str) -> None:
    if not condition:
        raise AssertionError(what)


# Results -----------------------------------------------------------------------------------------


def _result(num_pairs: int = 6, size: int = 8) -> Counterfactuals:
    result = made_up.result(num_pairs, channels=3, size=size, failed=(1,), already=(2,))
    fields = dict(vars(result))
    fields["log_density"] = torch.linspace(-9, 3, num_pairs)
    fields["trajectory"] = [result.inputs[pair].repeat(pair + 1, 1, 1, 1) for pair in range(6)]
    return Counterfactuals(**{**fields, "settings": "DeDUCE(confidence=0.5)"})


def _write_results(folder: Path) -> list[Path]:
    _result().save(folder / "whole.safetensors")
    return [folder / "whole.safetensors"]


def _well_formed(result: Counterfactuals) -> None:
    count = len(result.inputs)
    holds(result.inputs.is_floating_point(), "inputs are no numbers with a point")
    holds(result.inputs.dtype == result.counterfactuals.dtype, "images of two types")
    for name, dtype in (
        ("target", torch.int64),
        ("success", torch.bool),
        ("iterations", torch.int64),
        ("evaluations", torch.int64),
        ("forward_evaluations", torch.int64),
        ("prediction", torch.int64),
    ):
        value = getattr(result, name)
        holds(
            (value.dtype == dtype or not count) and value.shape == (count,),
            f"{name}: {value.dtype}",
        )
    holds(0 <= int(result.success.sum()) <= count, "success is neither true nor false")
    for images in result.trajectory or []:
        holds(images.shape[1:] == result.inputs.shape[1:], "a trajectory of other images")


def _use_results(path: Path) -> None:
    used(
        Counterfactuals.load(path),
        Counterfactuals.summary,
        Counterfactuals.l0,
        Counterfactuals.l1,
        repr,
        lambda result: result[result.success],
        lambda result: list(result),
        _well_formed,
    )


# Densities, prototypes, models -------------------------------------------------------------------


def _features() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    target = torch.arange(90) % 3
    return torch.randn(90, 5, generator=generator).double() + target[:, None], target


def _write_densities(folder: Path) -> list[Path]:
    features, target = _features()
    paths = []
    for kind in ("full", "tied", "diag", "spherical", "low_rank", "auto"):
        density = ClassGaussianMixture(kind).fit(features, target)
        density.save(folder / f"{kind}.safetensors")
        paths.append(folder / f"{kind}.safetensors")
    return paths


def _use_density(path: Path) -> None:
    def evaluate(density: ClassGaussianMixture) -> None:
        holds(density.num_features < 10**6 and density.num_classes < 10**6, "absurd sizes")
        features = torch.zeros(2, density.num_features, dtype=torch.float64)
        fitted = [index for index, count in enumerate(density.counts.tolist()) if count > 0]
        if fitted:
            try:
                density.log_prob(features, fitted[0])
            except ValueError as error:
                # that a matrix is not positive definite is found out when it is first needed
                holds("Cholesky" in str(error), str(error))
                return
            holds(density.log_prob(features, fitted[0]).shape == (2,), "no value for each")
            holds(density.log_probs(features).shape == (2, density.num_classes), "no N x C values")

    used(ClassGaussianMixture.load(path), repr, evaluate)


def _write_prototypes(folder: Path) -> list[Path]:
    features, target = _features()
    PrototypeIndex(features, target).save(folder / "prototypes.safetensors")
    return [folder / "prototypes.safetensors"]


def _use_prototypes(path: Path) -> None:
    def evaluate(index: PrototypeIndex) -> None:
        counts = index.counts
        holds(int(counts.sum()) == len(index.features) and int(counts.min()) >= 0, "counts")
        index.require(1, [int(counts.argmax())])

    used(PrototypeIndex.load(path), repr, evaluate)


def _settings(architecture: str) -> Settings:
    arguments: dict[str, Any] = {"in_channels": 1, "num_classes": 3, "width": 2, "image_size": 8}
    return Settings(architecture, arguments, ("a", "b", "c"), "digits", 1, 0)


def _write_checkpoints(folder: Path) -> list[Path]:
    paths = []
    features, target = torch.randn(90, 16).double(), torch.arange(90) % 3
    for architecture in ("resnet18", "sn_resnet18"):
        settings = _settings(architecture)
        density = ClassGaussianMixture("tied").fit(features, target)
        path = folder / f"{architecture}.safetensors"
        save_checkpoint(path, Checkpoint(settings.build(), density, settings))
        paths.append(path)
    return paths


def _use_checkpoint(path: Path) -> None:
    def evaluate(found: Checkpoint) -> None:
        images = torch.zeros(1, found.settings.arguments.get("in_channels", 1), 8, 8)
        kind = next(found.model.parameters()).dtype
        scores = found.model(images.to(kind))
        names = found.settings.class_names
        holds(scores.shape == (1, len(names)), f"{scores.shape} for {len(names)} names")
        holds(all(isinstance(name, str) for name in names), "a class without a name")

    used(load_checkpoint(path), evaluate)


def _train(path: Path) -> None:
    """A training of one epoch, which is read and not repeated where the file is there."""
    torch.manual_seed(0)
    model = SmallCNN(width=2, image_size=8)
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data = datasets.ImageData(images, torch.arange(8) % 3, ("a", "b", "c"))
    history = train_classifier(
        model, data, epochs=1, batch_size=4, checkpoint=path, show_progress=False
    )
    used(model, lambda trained: trained(images))
    holds(len(history.loss) == 1, "epochs that were not asked for")


def _write_trainings(folder: Path) -> list[Path]:
    _train(folder / "training.safetensors")
    return [folder / "training.safetensors"]


def _write_models(folder: Path) -> list[Path]:
    VAE(latent_size=3, image_size=8).save(folder / "vae.safetensors")
    SmallCNN(width=2, image_size=8).save(folder / "cnn.safetensors")
    return [folder / "vae.safetensors", folder / "cnn.safetensors"]


def _use_model(path: Path) -> None:
    kind: Any = VAE if path.stem == "vae" else SmallCNN

    def evaluate(model: Any) -> None:
        size = model.settings["image_size"]
        sides = (size, size) if isinstance(size, int) else tuple(size)
        images = torch.zeros(1, model.settings["in_channels"], *sides)
        model(images.to(next(model.parameters()).dtype))

    used(kind.load(path), evaluate)


def _write_hurdles(folder: Path) -> list[Path]:
    features, target = _features()
    state = ClassHurdles().fit(features.clamp_min(0), target).state_dict()
    storage.write(folder / "hurdles.safetensors", state, {})
    return [folder / "hurdles.safetensors"]


def _use_hurdles(path: Path) -> None:
    tensors, _ = storage.read(path, "hurdles")
    hurdles = ClassHurdles()
    try:
        hurdles.load_state_dict(tensors)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


# Runs over data sets -----------------------------------------------------------------------------


def _write_manifest(folder: Path) -> list[Path]:
    made_up_run(folder)
    return [folder / "manifest.json"]


def _write_shards(folder: Path) -> list[Path]:
    made_up_run(folder)
    return sorted(folder.glob("*.parquet"))


def _run_size(path: Path) -> int:
    import pyarrow.parquet as pq

    try:
        groups = pq.read_metadata(path)
        total = sum(groups.row_group(k).total_byte_size for k in range(groups.num_row_groups))
    except Exception:
        total = 0
    return int(min(max(total, 0), 2**24)) + path.stat().st_size


def _use_run(path: Path) -> None:
    run = bulk.read(path.parent)
    run.table()
    holds(len(run) < 10**6, "absurdly many rows")
    for rows, changes in run.changes():
        holds(changes.shape == (len(rows), *run.shape), "changes of another shape")
    if run.manifest["store_images"] and len(run):
        _well_formed(run.counterfactuals())
    used(run, repr, lambda found: (found.failures, found.items_seen, found.complete))


def _use_report(path: Path) -> None:
    used(report_run(bulk.read(path.parent)), report_html)


# Studies -----------------------------------------------------------------------------------------


def _study(folder: Path) -> tuple[Path, list[Path]]:
    study = made_up.study(trials=4)
    key = study.key
    key.save(folder / "key.json")

    def say(name: str, number: int) -> object:
        trial = key.trials[name]
        if trial.task == "real":
            return bool(number % 2)
        return trial.pictures[0] if trial.task == "prefer" else key.pairs[trial.pair].options[0]

    paths = []
    for number in (1, 2, 3):
        path = folder / f"answers-{number}.json"
        path.write_text(json.dumps(made_up.answers(key, number, say)), encoding="utf-8")
        paths.append(path)
    return folder / "key.json", paths


def _write_key(folder: Path) -> list[Path]:
    return [_study(folder)[0]]


def _write_answers(folder: Path) -> list[Path]:
    return _study(folder)[1]


def _use_study(path: Path) -> None:
    key = StudyKey.load(path.parent / "key.json")
    answers = read_answers(sorted(path.parent.glob("answers-*.json")), key, incomplete=True)
    used(answers, lambda given: analyse_study(given, key, resamples=2))


# Images ------------------------------------------------------------------------------------------


def _levels(*shape: int, most: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, most, shape)


def _write_images(folder: Path, formats: Sequence[str]) -> list[Path]:
    paths = []
    colour = Image.fromarray(_levels(24, 32, 3).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, form in enumerate(formats):
        path = folder / f"image-{number}.{form}"
        colour.save(path, **({"exif": exif} if form in ("jpg", "png", "webp") else {}))
        paths.append(path)
    colour.quantize(16).save(folder / "palette.png")
    colour.convert("RGBA").save(folder / "alpha.png")
    return [*paths, folder / "palette.png", folder / "alpha.png"]


def _write_uploads(folder: Path) -> list[Path]:
    return _write_images(folder, ("png", "jpg", "webp", "bmp"))


def _write_image_files(folder: Path) -> list[Path]:
    paths = _write_images(folder, ("png", "jpg", "webp", "bmp", "gif", "tiff", "ppm"))
    deep = Image.fromarray(_levels(24, 32, most=65536).astype(np.uint16))
    deep.save(folder / "deep.png")
    deep.save(folder / "deep.tiff", compression="tiff_lzw")
    return [*paths, folder / "deep.png", folder / "deep.tiff"]


def _pixels(path: Path) -> int:
    """The bytes of an image's pixels, as Pillow keeps those of colours."""
    try:
        with Image.open(path) as opened:
            count = opened.size[0] * opened.size[1]
    except Exception:
        count = 0
    return 4 * min(count, 100_000_000) + path.stat().st_size


def _floats(path: Path) -> int:
    """The bytes of an image as the three channels of numbers that it is read as."""
    return 3 * _pixels(path)


def _use_upload(path: Path) -> None:
    for channels in (1, 3):
        image = uploads.decode(path, (channels, 8, 8))
        holds(image.shape == (1, channels, 8, 8) and 0 <= image.min() <= image.max() <= 1, "image")


def _use_image_file(path: Path) -> None:
    image = read_images([path], (3, 8, 8), resize=True)
    holds(image.shape == (1, 3, 8, 8) and 0 <= image.min() <= image.max() <= 1, "image")
    mask = read_mask(path, (1, 8, 8), resize=True)
    holds(mask.shape == (1, 1, 8, 8), "mask")


# Data sets and words -----------------------------------------------------------------------------


def _write_idx(folder: Path) -> list[Path]:
    content = struct.pack(">BBBBIII", 0, 0, 8, 3, 5, 8, 8) + _levels(5, 8, 8).astype("u1").tobytes()
    (folder / "plain-ubyte").write_bytes(content)
    (folder / "packed-ubyte.gz").write_bytes(gzip.compress(content))
    return [folder / "plain-ubyte", folder / "packed-ubyte.gz"]


def _use_idx(path: Path) -> None:
    holds(datasets.read_idx(path).dtype == np.uint8, "no bytes")


def _write_archive(folder: Path) -> list[Path]:
    for split in ("train", "test"):
        with tarfile.open(folder / f"{split}.tar.gz", "w:gz") as archive:
            for number in range(40):
                file = io.BytesIO()
                Image.fromarray(_levels(4, 4, 3).astype(np.uint8)).save(file, "PNG")
                member = tarfile.TarInfo(f"{split}/{'ab'[number % 2]}/{number}.png")
                member.size = file.tell()
                file.seek(0)
                archive.addfile(member, file)
    return [folder / "train.tar.gz"]


def _use_archive(path: Path) -> None:
    splits = datasets.load_cifar10(path.parent)
    holds(splits.train.images.dim() == 4, "no images")


def _write_names(folder: Path) -> list[Path]:
    (folder / "names.json").write_text(json.dumps(["cat", "dog"]), encoding="utf-8")
    (folder / "by-index.json").write_text(json.dumps({"0": "cat", "7": "dog"}), encoding="utf-8")
    return [folder / "names.json", folder / "by-index.json"]


READERS = (
    Reader("results", "safetensors", _write_results, _use_results),
    Reader("densities", "safetensors", _write_densities, _use_density),
    Reader("hurdles", "safetensors", _write_hurdles, _use_hurdles),
    Reader("prototypes", "safetensors", _write_prototypes, _use_prototypes),
    Reader("checkpoints", "safetensors", _write_checkpoints, _use_checkpoint),
    Reader("trainings", "safetensors", _write_trainings, _train),
    Reader("models", "safetensors", _write_models, _use_model),
    Reader("manifests", "json", _write_manifest, _use_run),
    Reader("shards", "parquet", _write_shards, _use_run, _run_size),
    Reader("reports of manifests", "json", _write_manifest, _use_report),
    Reader("reports of shards", "parquet", _write_shards, _use_report, _run_size),
    Reader("study keys", "json", _write_key, _use_study),
    Reader("study answers", "json", _write_answers, _use_study),
    Reader("uploads", "image", _write_uploads, _use_upload, _pixels, named=False),
    Reader("image files", "image", _write_image_files, _use_image_file, _floats),
    Reader("IDX files", "other", _write_idx, _use_idx),
    Reader("image archives", "archive", _write_archive, _use_archive),
    Reader("class names", "json", _write_names, read_names),
)
"""All readers, by what they read."""
