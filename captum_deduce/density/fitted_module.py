"""Modules whose buffers' shapes come from data, and whose dtype stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self


class FittedModule(nn.Module):
    """A module whose buffers hold what was fitted: their shapes come from data, their dtype stays.

    ``.half()``, ``.float()`` and ``.to(dtype)`` move the buffers but keep them in float64, and
    ``load_state_dict`` takes over the shapes of what it loads, and refuses another dtype.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(dtype_kept(fn), recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name, buffer in self._buffers.items():
            loaded = state_dict.get(prefix + name)
            if buffer is not None and isinstance(loaded, Tensor):
                if loaded.dtype != buffer.dtype:
                    # The last of the positional arguments collects what load_state_dict raises.
                    args[-1].append(f"{prefix + name} must be {buffer.dtype}, got {loaded.dtype}")
                    return
                self._buffers[name] = buffer.new_empty(loaded.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def dtype_kept(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Wrap a function that moves or converts tensors so that it only moves them.

    Args:
        function (Callable): From tensor to tensor, as ``nn.Module`` applies them to its buffers.

    Returns:
        Callable: The same, with the dtype of its argument; a ``TypeError`` from a device without
        float64 says what to do.
    """

    def move(tensor: Tensor) -> Tensor:
        try:
            moved = function(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
        except TypeError as error:
            raise TypeError(
                f"ClassGaussianMixture computes in float64 and could not be moved ({error}); where "
                "a device has no float64, leave the density on the CPU and pass it features there"
            ) from error

    return move
