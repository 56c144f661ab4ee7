"""What README.md shows is what works: its example runs, its marked blocks are the ones taken."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"

blocks = runpy.run_path(str(ROOT / ".ci" / "readme_block.py"))["blocks"]


@pytest.mark.filterwarnings("ignore:.*covariance")  # 6 samples a class, 512 features
def test_the_example_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = torch.rand(60, 3, 32, 32)
    labels = torch.arange(10).repeat(6)
    train_loader = list(zip(images.split(20), labels.split(20), strict=True))

    def train(model, loader):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for inputs, target in loader:
            optimizer.zero_grad()
            cross_entropy(model(inputs), target).backward()
            optimizer.step()

    given = {"images": images[:3], "labels": labels[3:6], "train_loader": train_loader}
    names = {**given, "train": train}
    exec(blocks(README.read_text(encoding="utf-8"))["example"], names)

    result, model = names["result"], names["model"]
    assert torch.equal(result.inputs, given["images"])
    assert torch.equal(result.target, given["labels"])
    with torch.no_grad():
        probabilities = model.eval()(result.counterfactuals).softmax(1)
    reached = probabilities.gather(1, given["labels"][:, None])[:, 0]
    torch.testing.assert_close(result.confidence, reached)
    assert torch.equal(result.success, reached > 0.5)
    assert torch.equal((result.counterfactuals != result.inputs).any(), result.iterations.any())
    assert (tmp_path / "counterfactuals.png").stat().st_size > 1000


def test_the_commands_need_nothing_but_a_python():
    text = README.read_text(encoding="utf-8")
    for name in ("demo", "tests"):
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
