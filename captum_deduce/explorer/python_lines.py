"""The lines of Python that make what the page shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from captum_deduce.explorer.live import Search
from captum_deduce.explorer.visitors import Chosen

RESULT_FILE = "counterfactuals.safetensors"
MASK_FILE = "mask.png"


@dataclass(frozen=True)
class Code:
    """What explainers and images are called in Python.

    Args:
        setup (str, optional): Lines that make them. Default: "" (they are there)
        images (str, optional): An expression: the images. Default: "images"
        explainers (Mapping[str, str], optional): For the names of explainers an expression each.
            Default: none (``explainers[name]``)
    """

    setup: str = ""
    images: str = "images"
    explainers: Mapping[str, str] = field(default_factory=dict)


def python_lines(code: Code, name: str, search: Search, chosen: Chosen) -> str:
    """Write the lines that make the same counterfactual.

    An image that was uploaded, and what was painted, are read from the files that the page offers
    to keep.

    Args:
        code (Code): What explainers and images are called.
        name (str): The explainer's.
        search (Search): Of it.
        chosen (Chosen): The image.

    Returns:
        str: Python; after it, ``result`` holds the counterfactual.
    """
    imports, lines, given = [], [], ""
    if chosen.row is None:
        imports.append("from captum_deduce import Counterfactuals")
        inputs = f'Counterfactuals.load("{RESULT_FILE}").inputs'
    else:
        inputs = f"{code.images}[{chosen.row}:{chosen.row + 1}]"
    if search.image.device.type != "cpu":
        inputs += f'.to("{search.image.device}")'
    lines.append(f"inputs = {inputs}")
    if search.mask is not None:
        imports += ["import numpy as np", "import torch", "from PIL import Image"]
        lines.append(f'mask = torch.from_numpy(np.asarray(Image.open("{MASK_FILE}")) > 127)')
        given = ", mask=mask"
    explainer = code.explainers.get(name, f"explainers[{name!r}]")
    lines += [
        f"explainer = {explainer}",
        f"result = explainer.generate(inputs, target={search.target}{given})",
    ]
    parts = ["\n".join(imports), code.setup.strip(), "\n".join(lines)]
    return "\n\n".join(part for part in parts if part)
