"""Sphinx's settings for the site: ``make docs`` builds it into ``site/``, warnings as errors."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # of tqdm, in kernels without widgets
sys.path[:0] = [str(HERE.parent), str(HERE), str(HERE / "_extensions")]

project = "A zoo of latent-variable models"
author = "the zoo's authors"
copyright = author
html_title = "latent-zoo"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
    "printed",
]
exclude_patterns = ["_build", "_choosing.md", "stories", "**/.ipynb_checkpoints"]

# Pages that hold code cells are executed at every build; one that fails stops it.
nb_execution_mode = "auto"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "warn"  # a page shows no warnings, least of all with paths of this machine
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_inline"]
html_math_renderer = "mathml"
myst_heading_anchors = 4

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["zoo.css"]
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_google_docstring = True
napoleon_use_ivar = True  # what a class says of its attributes is not said again by each
napoleon_custom_sections = [
    ("Shapes", "params_style"),
    ("Args of every subclass", "params_style"),
    ("Args of every method", "params_style"),
    ("Units", "notes_style"),
]
# Nothing is fetched while the site is built: links to other projects are written out where they are wanted.
intersphinx_mapping: dict[str, tuple[str, None]] = {}
# Every other cross-reference has to lead somewhere: to a name of this project, as types of others have no page here.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|pyro|numpy|pandas|matplotlib|collections|pathlib|typing|arviz|contextlib|abc|dist)\..*"),
    (r"py:class", r"(nn\.)?Module|Tensor|DataFrame|Path|Figure|ExpandedDistribution|_DependentProperty"),
    (r"py:.*", r"(zoo\.\w+\.base\.)?(Weighable|Parts|Self)|Axes|Data|Column|Fields|Schema|ScoreMoments"),
    (r"py:class", r"zoo\.core\..*|zoo\.runs\.answers\.Answers"),
]
suppress_warnings = ["mystnb.unknown_mime_type"]
