"""What to do when a model runs out of memory: go on with half as many pairs at a time."""

from __future__ import annotations

import warnings

from captum_deduce.classifiers import ran_out_of_memory


def smaller_batch(
    error: Exception, size: int, *, warned: bool = False, stacklevel: int = 1
) -> int | None:
    """Tell how many pairs to go on with after an error.

    Args:
        error (Exception): What an evaluation of the model raised.
        size (int): The number of pairs that were evaluated, at least 1.
        warned (bool, optional): Whether a warning was given before. Default: False
        stacklevel (int, optional): Of the warning; 1 is the caller. Default: 1

    Returns:
        int or None: Half of them; None where the error is about something else than memory, or
        there was only one.

    Warns:
        UserWarning: The first time, how to avoid it.
    """
    if size == 1 or not ran_out_of_memory(error):
        return None
    half = (size + 1) // 2
    if not warned:
        warnings.warn(
            f"{size} pairs at a time are too many for the memory; the search goes on with {half}, "
            "and with fewer if need be. Nothing is lost but the time of the attempts that failed: "
            f"internal_batch_size={half} or less saves it",
            stacklevel=stacklevel + 1,
        )
    return half
