"""A page in the browser: choose an image, watch it change, compare, paint, keep."""

from captum_deduce.explorer.explorer import Explorer, explore, is_loopback
from captum_deduce.explorer.python_lines import Code
from captum_deduce.explorer.requirement import require_gradio

__all__ = ["Code", "Explorer", "explore", "is_loopback", "require_gradio"]
