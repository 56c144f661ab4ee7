"""What README.md shows is what works: its example runs, its marked blocks are the ones taken."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from captum_deduce import explainers

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
INDEX = ROOT / "docs" / "index.md"
NUMBERS = {8: "eight", 9: "nine", 10: "ten", 11: "eleven", 12: "twelve"}

blocks = runpy.run_path(str(ROOT / ".ci" / "readme_block.py"))["blocks"]


def patches(classes):
    """Noise with a bright patch, whose place is the class."""
    images = 0.2 * torch.rand(len(classes), 3, 16, 16)
    for image, place in zip(images, classes, strict=True):
        row, column = 4 * (place // 4), 4 * (place % 4)
        image[:, row : row + 4, column : column + 4] = 0.9
    return images


def train(model, loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(7):
        for inputs, target in loader:
            optimizer.zero_grad()
            cross_entropy(model(inputs), target).backward()
            optimizer.step()


class Augmented:
    """A loader whose images come with other noise each time."""

    def __init__(self, images, target):
        self.images, self.target = images, target

    def __iter__(self):
        noisy = (self.images + 0.05 * torch.rand_like(self.images)).clamp(0, 1)
        return zip(noisy.split(30), self.target.split(30), strict=True)


@pytest.mark.filterwarnings("ignore:.*covariance")  # 12 samples a class for 512 features
def test_the_example_explains_the_mistakes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classes = torch.randperm(120) % 10
    training_images = patches(classes.tolist())
    # the first and the last have another's label, so that a model that has learned is wrong there
    shown, truth = patches([0, 2, 7, 1]), torch.tensor([3, 2, 7, 5])
    names = {
        "test_images": shown,
        "test_labels": truth,
        "train_loader": Augmented(training_images, classes),
        "train": train,
    }
    exec(blocks(README.read_text(encoding="utf-8"))["example"], names)

    result, model = names["result"], names["model"].eval()
    with torch.no_grad():
        seen = model(shown).argmax(1)
    mistakes = seen != truth
    assert mistakes.tolist() == [True, False, False, True]
    assert torch.equal(result.inputs, shown[mistakes])
    assert torch.equal(result.target, truth[mistakes])
    assert torch.equal(result.prediction, seen[mistakes])
    assert not result.already.any()
    labels = result.target

    def target_probability(shown):
        with torch.no_grad():
            return model(shown).softmax(1)[torch.arange(len(labels)), labels]

    torch.testing.assert_close(result.confidence, target_probability(result.counterfactuals))
    assert torch.equal(result.success, result.confidence > 0.5)
    assert (result.confidence >= target_probability(result.inputs) - 1e-6).all()
    assert (tmp_path / "mistakes.png").stat().st_size > 1000

    torch.manual_seed(1)
    names["other"] = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 10))
    train(names["other"], names["train_loader"])
    exec(blocks(README.read_text(encoding="utf-8"))["evaluate"], names)

    found = [each.success & ~each.already for each in names["results"].values()]
    both = torch.stack(found).all(0)
    with torch.no_grad():
        seen = names["other"](result.counterfactuals).argmax(1) == labels
    table = names["table"]
    assert table["DeDUCE", "oracle agreement"].mean == seen[both].double().mean().item()
    assert table["closest", "L0"].pairs == int(both.sum())


def test_the_start_page_has_the_same_example():
    (code,) = re.findall(r"^```python\n(.*?)^```$", INDEX.read_text("utf-8"), re.M | re.S)
    assert code == blocks(README.read_text(encoding="utf-8"))["example"]


@pytest.mark.parametrize("page", [README, INDEX])
def test_the_other_methods_are_counted(page):
    (number,) = re.findall(r"(\w+)\s+other\s+methods", page.read_text(encoding="utf-8"))
    assert number.lower() == NUMBERS[len(explainers.METHODS) - 1]


def test_the_commands_need_nothing_but_a_python():
    text = README.read_text(encoding="utf-8")
    for name in ("demo", "tests", "docs"):
        command = blocks(text)[name]
        assert command.startswith("python3 -m venv ")
        assert command.count("\n") == 1


def test_marked_blocks_are_found_by_name():
    text = (
        "Text\n\n<!-- block: one -->\n```bash\na\nb\n```\n\n```bash\nunmarked\n```\n"
        "<!-- block: two -->\n\n```python\nc\n```\n"
    )
    assert blocks(text) == {"one": "a\nb\n", "two": "c\n"}


@pytest.mark.parametrize(
    "text",
    [
        "<!-- block: one -->\nno fence\n",
        "<!-- block: one -->\n```bash\na\n```\n<!-- block: one -->\n```bash\nb\n```\n",
        "<!-- block: one -->\n\nText between.\n\n```bash\na\n```\n",
    ],
)
def test_a_mark_without_its_own_block_is_an_error(text):
    with pytest.raises(ValueError, match="one"):
        blocks(text)
