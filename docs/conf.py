"""How the documentation is built: `sphinx-build -W -n docs docs/_build`, without a network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from captum_deduce import __version__

HERE = Path(__file__).resolve().parent
EXTENSIONS = str(HERE / "_ext")
sys.path.insert(0, EXTENSIONS)

from public_names import EXTERNAL  # noqa: E402

# What executed pages import from there, in processes of their own.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [EXTENSIONS, os.environ.get("PYTHONPATH", "")])
)
# Models this small wait for threads more than they gain.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A notebook's progress bars need another package; pages draw none.
os.environ["TQDM_DISABLE"] = "1"
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"

project = "captum-deduce"
author = "The captum-deduce developers"
project_copyright = author
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
    "sphinx-mathjax-offline",
    "command_line",
    "examples_using",
    "internal_links",
    "more_pages",
    "names_on_page",
    "picture_texts",
    "printed_warnings",
    "public_names",
    "readable_docstrings",
    "shared_reading",
    "unbroken_names",
]
exclude_patterns = ["_build", "_ext", "jupyter_execute", "**/.ipynb_checkpoints"]

html_theme = "furo"
html_title = f"captum-deduce {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sphinx = False

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_render_markdown_format = "gfm"  # with tables

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "unsrt"

autoclass_content = "both"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
# Types stand in the docstrings, with shapes and units.
autodoc_typehints = "none"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

ONLINE = os.environ.get("DOCS_ONLINE") == "1"
intersphinx_mapping = (
    {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "captum": ("https://captum.ai/api", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
    }
    if ONLINE
    else {}
)

# Checked: references to our own names. Not checked without their inventories: others'.
OTHERS = r"(torch|captum|sklearn|numpy|matplotlib|pandas|PIL|collections|pathlib|typing|os)\b.*"
WORDS = ["height", "optional", "path", "sequence", "width"]  # no names, in docstrings' types
nitpick_ignore_regex = [("py:class", "|".join(WORDS))]
if ONLINE:
    nitpick_ignore_regex += [("py:.*", r"(matplotlib|pandas|PIL)\b.*")]
else:
    nitpick_ignore_regex += [("py:.*", OTHERS), ("py:.*", rf"({'|'.join(EXTERNAL)})\b.*")]
