"""Sphinx settings: ``make docs`` builds the documentation from these pages and the package's docstrings."""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

import segext

project = "segext"
author = "the segext authors"
copyright = author
version = release = segext.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Every name that the docstrings refer to is documented here, or one of torch's or Python's, or listed below.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|nn|collections|os|typing)\..*|Tensor|Module|Sequence|Collection|Mapping|PathLike"),
    ("py:.*", r"device|dtype|memory_format|IntPair|Self"),
    ("py:.*", r"segext\.models\.\w+\.\w+"),  # the networks' classes, which functions build
]

autodoc_inherit_docstrings = False  # torch's are written for another reader
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
smartquotes = False  # H' is a height, not a quotation
napoleon_numpy_docstring = False
napoleon_use_param = False  # so that several arguments share one line
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"segext {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
_DRAWINGS = {  # the colours of drawings, which follow the page's switch from light to dark
    "light": {"ink": "#1f2933", "hit": "#0b7285", "other": "#b3541e", "faint": "#d9dee2"},
    "dark": {"ink": "#e6e9ec", "hit": "#4fb3c8", "other": "#f0a36b", "faint": "#3a434b"},
}
html_theme_options = {
    f"{theme}_css_variables": {f"drawing-{name}": colour for name, colour in colours.items()}
    for theme, colours in _DRAWINGS.items()
}


class DrawingsInline(SphinxPostTransform):
    """Puts drawings into the page rather than beside it: they take its colours, and follow it from light to dark."""

    default_priority = 5
    formats = ("html",)

    def run(self) -> None:
        for image in list(self.document.findall(nodes.image)):
            if image["uri"].startswith("drawings/"):
                drawing = (Path(self.app.srcdir) / image["uri"]).read_text()
                image.replace_self(nodes.raw("", drawing, format="html"))


def setup(app: Sphinx) -> None:
    app.add_post_transform(DrawingsInline)
