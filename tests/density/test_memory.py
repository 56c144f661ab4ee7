from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from captum_deduce.density import memory
from captum_deduce.density.class_gaussian_mixture import ClassGaussianMixture
from captum_deduce.density.memory import free_bytes, in_words, require

CPU = torch.device("cpu")


def test_sizes_are_written_in_the_larger_unit():
    assert in_words(3 * 2**20) == "3 MiB"
    assert in_words(1536 * 2**20) == "1.5 GiB"
    assert in_words(2**41) == "2,048.0 GiB"


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs Linux")
def test_what_is_free_is_what_the_system_says():
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal"))
    assert 0 < free_bytes(CPU) < total


def test_control_groups_and_unknown_systems(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_of_system", lambda: 1e12)
    monkeypatch.setattr(memory, "_of_address_space", lambda: math.inf)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert free_bytes(CPU) == 1e12
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700\n")
    assert free_bytes(CPU) == 1e12
    (tmp_path / "memory.max").write_text("1000\n")
    assert free_bytes(CPU) == 300
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 40\nactive_file 7\n")
    assert free_bytes(CPU) == 340
    (tmp_path / "memory.current").write_text("1700\n")
    assert free_bytes(CPU) == 0
    # the first version of control groups
    for name in ("memory.max", "memory.current", "memory.stat"):
        (tmp_path / name).unlink()
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("900\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("200\n")
    assert free_bytes(CPU) == 700
    assert free_bytes(torch.device("meta")) == math.inf


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_the_limit_of_the_address_space_counts():
    script = (
        "import resource, torch\n"
        "from captum_deduce.density.memory import free_bytes, _field\n"
        "from pathlib import Path\n"
        "used = _field(Path('/proc/self/status'), 'VmSize')\n"
        "resource.setrlimit(resource.RLIMIT_AS, (int(used) + 2**26, resource.RLIM_INFINITY))\n"
        "assert 0 < free_bytes(torch.device('cpu')) <= 2**26 + 2**20\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_what_does_not_fit_is_refused_with_both_figures_and_a_remedy(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2.0**31)
    require(2**31, CPU, "a matrix", "pass less")
    message = r"a matrix would take 3\.0 GiB of memory, but 2\.0 GiB are free on cpu; pass less"
    with pytest.raises(ValueError, match=message):
        require(3 * 2**30, CPU, "a matrix", "pass less")


@pytest.mark.parametrize("covariance_type", ["full", "low_rank", "tied", "diag", "auto"])
def test_nothing_changes_where_samples_do_not_fit(covariance_type, monkeypatch):
    features, labels = torch.randn(60, 6), torch.arange(60) % 3
    density = ClassGaussianMixture(covariance_type).fit(features, labels)
    expected = density.log_probs(features)
    monkeypatch.setattr(memory, "_SMALL", 0)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0.0)
    with pytest.raises(ValueError, match="of memory, but 0 MiB are free on cpu; "):
        density.partial_fit(torch.randn(7, 6), torch.tensor([9] * 7))
    with pytest.raises(ValueError, match="of memory, but 0 MiB are free on cpu; "):
        ClassGaussianMixture(covariance_type).fit(features, labels)
    assert torch.equal(density.log_probs(features), expected)
    assert density.num_classes == 3
    assert torch.isfinite(density.quantile(0.5)).all()


def test_covariances_are_not_made_where_they_do_not_fit(monkeypatch):
    features, labels = torch.randn(60, 6), torch.arange(60) % 3
    for covariance_type in ("full", "tied", "low_rank"):
        density = ClassGaussianMixture(covariance_type).partial_fit(features, labels)
        with monkeypatch.context() as patched:
            patched.setattr(memory, "_SMALL", 0)
            patched.setattr(memory, "free_bytes", lambda device: 0.0)
            with pytest.raises(ValueError, match=r"covariance.* of 6 features would take"):
                density.log_probs(features)
        expected = density.covariances
        if covariance_type == "tied":
            continue
        with monkeypatch.context() as patched:
            patched.setattr(memory, "_SMALL", 0)
            patched.setattr(memory, "free_bytes", lambda device: 0.0)
            with pytest.raises(ValueError, match=r"the 3 covariances .* call covariance\(index\)"):
                _ = density.covariances
            assert torch.equal(density.covariance(1), expected[1])


def test_matrices_of_a_thousand_classes_are_refused_before_they_are_made():
    features, labels = torch.randn(1000, 2048), torch.arange(1000)
    density = ClassGaussianMixture("full").partial_fit(features, labels)
    assert density.moments.classes.nbytes < 10 * 2**20
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(memory, "free_bytes", lambda device: 16.0 * 2**30)
        message = (
            r"'full' covariances of 1,000 classes of 2,048 features would take 31\.4 GiB of "
            r"memory, but 16\.0 GiB are free on cpu; pass covariance_type='auto'"
        )
        with pytest.raises(ValueError, match=message):
            density.log_prob(features[:1], 0)
