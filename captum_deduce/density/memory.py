"""Whether what is about to be allocated fits into memory."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

# Needs that no machine lacks the room for are not looked up.
_SMALL = 2**24
_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> float:
    """Find how much memory is free, without what the allocator could not use.

    Args:
        device (torch.device): The CPU: what the system says is available, or less where a control
            group or the limit of the address space leaves less. CUDA: free memory and what torch
            has reserved but doesn't use.

    Returns:
        float: Bytes; infinite where nothing is known.
    """
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + reserved)
    if device.type != "cpu":
        return math.inf
    return max(min(_of_system(), _of_group(), _of_address_space()), 0.0)


def require(needed: int, device: torch.device, what: str, remedy: str) -> None:
    """Refuse what doesn't fit, before it is allocated.

    Args:
        needed (int): Bytes.
        device (torch.device): Where.
        what (str): What needs them, for the message.
        remedy (str): What the user can do.

    Raises:
        ValueError: More is needed than is free; it says both figures.
    """
    if needed < _SMALL:
        return
    free = free_bytes(device)
    if needed > free:
        raise ValueError(
            f"{what} would take {in_words(needed)} of memory, but {in_words(free)} are free on "
            f"{device}; {remedy}"
        )


def in_words(size: float) -> str:
    """Write a number of bytes for a person.

    Args:
        size (float): Bytes.

    Returns:
        str: In MiB or GiB.
    """
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def _number(path: Path) -> float:
    """The number in a file of the system's; infinite where there is none ("max", no such file)."""
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return math.inf


def _field(path: Path, name: str) -> float:
    """The bytes that a line of a table of the system's says, in kB; infinite without the line."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return math.inf
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return float(found[0]) * 1024 if found else math.inf


def _of_system() -> float:
    available = _field(Path("/proc/meminfo"), "MemAvailable")
    if math.isfinite(available):
        return available
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return math.inf


def _of_group() -> float:
    """What the control group of a container leaves, of its second version or its first."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, now = _number(_CGROUP / limit), _number(_CGROUP / used)
        if math.isfinite(most) and math.isfinite(now):
            return most - now + _reclaimable(_CGROUP / Path(limit).parent)
    return math.inf


def _reclaimable(folder: Path) -> float:
    """Of what counts as used, files that the system drops when memory is needed."""
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return 0.0
    return float(sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file ")))


def _of_address_space() -> float:
    try:
        import resource
    except ImportError:  # not on Windows
        return math.inf
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return math.inf
    used = _field(Path("/proc/self/status"), "VmSize")
    return limit - used if math.isfinite(used) else math.inf
