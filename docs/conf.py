"""Sphinx's configuration: `make docs` builds docs/_build/html and fails on a broken link."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "hfgen"
author = "the hfgen authors"
version = release = installed_version("hfgen")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "repository_links",
    "flag_tables",
    "docstrings",
]
exclude_patterns = ["_build", "_ext"]
html_theme = "furo"
html_title = f"hfgen {release}"
html_show_copyright = False

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
repository_url = "https://github.com/hfgen/hfgen"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
napoleon_use_ivar = True
autodoc_preserve_defaults = True
default_role = "literal"
# every name in a signature would have to be documented somewhere: only links that were written are checked
nitpicky = False
