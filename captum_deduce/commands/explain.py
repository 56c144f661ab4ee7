"""``captum-deduce explain``: counterfactuals of a user's own images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from captum_deduce.commands.given import make_folder, read_device, read_targets
from captum_deduce.commands.image_files import read_images, read_mask, to_8_bits, write_png
from captum_deduce.commands.subjects import Subject, find_subject
from captum_deduce.reports import Explained, explain, tables
from captum_deduce.storage import file_stem
from captum_deduce.training import predict

_RESULT_FILE = "counterfactuals.safetensors"


def run(
    checkpoint: Path | None,
    images: Sequence[Path],
    target: Sequence[str] | None = None,
    *,
    torchvision: Mapping[str, Any] | None = None,
    output: Path = Path("captum-deduce-explain"),
    mask: Path | None = None,
    resize: bool = False,
    invert: bool = False,
    preset: str | None = None,
    device: str | None = None,
    show_progress: bool = False,
    **settings: Any,
) -> None:
    """Explain image files with the classifier of a checkpoint, or with one of torchvision's.

    Prints a table, which says whether each image still has its class when it is rounded to 8 bits.
    Writes for each image the counterfactual in its own size, rounded to 8 bits, and a picture of
    original, counterfactual and change; and ``counterfactuals.safetensors``.

    Args:
        checkpoint (Path or None): The checkpoint; None: it is one of torchvision's.
        images (Sequence[Path]): N image files.
        target (Sequence[str], optional): Names or numbers of classes, one or N. Default: None (each
            image's runner-up class)
        torchvision (Mapping[str, Any], optional): Fields of
            :class:`captum_deduce.commands.subjects.Weights`. Default: None (there is a checkpoint)
        output (Path, optional): The folder to write to. Default: ``captum-deduce-explain`` in the
            current folder
        mask (Path, optional): An image that is white where pixels may change. Default: None
        resize (bool, optional): Scale images and mask of another size. Default: False
        invert (bool, optional): Exchange black and white on reading, and back on writing.
            Default: False
        preset (str, optional): Name of one of :class:`captum_deduce.DeDUCE`'s presets.
            Default: None (its defaults)
        device (str, optional): Where to compute. Default: CUDA where there is one, else the CPU
        show_progress (bool, optional): Draw a progress bar. Default: False
        **settings (Any): Arguments of :class:`captum_deduce.DeDUCE`, which win over the preset's.
            Where ``pixel`` is not among them it is "site" for colour images, but for the preset
            "paper".

    Raises:
        ValueError: What was given does not fit together, or a file would replace one of the images.
    """
    subject = find_subject(checkpoint, torchvision or {}, read_device(device), preset, settings)
    _explain(
        subject,
        images,
        target,
        output,
        mask,
        resize=resize,
        invert=invert,
        show_progress=show_progress,
    )


def _explain(
    subject: Subject,
    images: Sequence[Path],
    target: Sequence[str] | None,
    output: Path,
    mask: Path | None,
    *,
    resize: bool,
    invert: bool,
    show_progress: bool,
) -> None:
    shape, names = subject.shape, subject.class_names
    targets = read_targets(target, names, len(images))
    like = next(subject.model.parameters())  # for their device and precision
    inputs = read_images(images, shape, resize=resize, invert=invert).to(like)
    allowed = None if mask is None else read_mask(mask, shape, resize=resize).to(like.device)
    make_folder(output)
    if subject.note:
        print(f"{subject.note}\n")
    explained = explain(
        subject.explainer, inputs, targets, names, mask=allowed, show_progress=show_progress
    )
    files = _counterfactual_files(explained, images, output)
    levels = to_8_bits(explained.result.counterfactuals)
    for path, image in zip(files, 255 - levels if invert else levels, strict=True):
        write_png(path, image)
    # Read back, so that what is reported is what the files hold.
    written = read_images(files, shape, invert=invert).to(like)
    rounded = predict(subject.model, written).softmax(1)

    columns = [
        ("image", [path.name for path in images]),
        *tables.search_columns(explained),
        *_rounded_columns(explained, rounded),
    ]
    print(f"{tables.table(columns)}\n\n{tables.totals(explained)}\n")
    print("\n".join(_remarks(explained, rounded, images)))
    for row, path in enumerate(files):
        explained.save_picture(_comparison_file(path), slice(row, row + 1))
    explained.result.save(output / _RESULT_FILE)
    written_names = [name for path in files for name in (path.name, _comparison_file(path).name)]
    print(f"\nWritten to {output}:", *written_names, _RESULT_FILE, sep="\n  ")


def _remarks(explained: Explained, rounded: Tensor, images: Sequence[Path]) -> list[str]:
    """Say in words what a reader of the table must not miss."""
    result = explained.result
    kept = rounded.argmax(1) == result.target
    lines = []
    if not result.success.all():
        lines.append(
            f"Not found: {_files(images, ~result.success)}. Their files hold the best attempt, no "
            "counterfactual; more --max-iterations or --max-changes may help."
        )
    if result.already.any():
        lines.append(
            "Unchanged, as the classifier already sees the target: "
            f"{_files(images, result.already)}."
        )
    lost = result.success & ~kept
    found = int(result.success.sum())
    if lost.any():
        lines.append(
            f"Rounded to 8 bits, {int(lost.sum())} of {found} lost their class: "
            f"{_files(images, lost)}. A higher --confidence leaves more room."
        )
    elif found:
        subject = (
            "the counterfactual still has its" if found == 1 else f"all {found} still have their"
        )
        lines.append(f"Rounded to 8 bits, {subject} class.")
    return lines


def _rounded_columns(explained: Explained, rounded: Tensor) -> list[tables.Column]:
    confidence, seen = rounded.max(1)
    names, result = explained.class_names, explained.result
    outcomes = zip((seen == result.target).tolist(), result.success.tolist(), strict=True)
    return [
        (
            "8-bit file seen as",
            [
                f"{names[c]} ({p:.3f})"
                for c, p in zip(seen.tolist(), confidence.tolist(), strict=True)
            ],
        ),
        ("class kept", [("yes" if kept else "NO") if found else "-" for kept, found in outcomes]),
    ]


def _counterfactual_files(explained: Explained, images: Sequence[Path], folder: Path) -> list[Path]:
    """Name the files to write, each in its own way, and none as one of the images."""
    targets = explained.result.target.tolist()
    stems = [
        f"{path.stem}-to-{file_stem(explained.class_names[target])}"
        for path, target in zip(images, targets, strict=True)
    ]
    # Where file systems ignore case, names that differ in nothing else are one.
    if len({stem.casefold() for stem in stems}) < len(stems):
        stems = [f"{number}-{stem}" for number, stem in enumerate(stems, 1)]
    files = [folder / f"{stem}.png" for stem in stems]
    originals = {path.resolve() for path in images}
    for path in (*files, *map(_comparison_file, files)):
        if path.resolve() in originals:
            raise ValueError(f"--output {folder} would replace {path}; choose another folder")
    return files


def _comparison_file(path: Path) -> Path:
    return path.with_name(f"{path.stem}-comparison.png")


def _files(images: Sequence[Path], chosen: Tensor, most: int = 5) -> str:
    names = [path.name for path, take in zip(images, chosen.tolist(), strict=True) if take]
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
