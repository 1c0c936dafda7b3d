"""Settings of Sphinx: `make docs`."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

_package = Path(__file__).parents[1].joinpath("certbot_postfix/__init__.py").read_text()

project = "certbot-postfix"
author = "The certbot-postfix developers"
version = release = re.findall(r'__version__ = "(.*?)"', _package)[0]
language = "en"

exclude_patterns = ["examples"]
nitpicky = True
highlight_language = "none"
smartquotes = False  # they would turn -- into a dash

html_theme = "alabaster"
html_theme_options = {
    "description": "Postfix plugin for certbot",
    "page_width": "1180px",
}
html_show_copyright = False
html_show_sourcelink = False

man_pages = [
    (
        "reference/cli",
        "certbot-postfix",
        "inspect and manage certbot certificates in Postfix",
        [],
        1,
    )
]


def without_links(app: Sphinx, doctree: nodes.document, _: str) -> None:
    """Leave the text of links in a manual page, where they lead nowhere."""
    if app.builder.name == "man":
        for link in list(doctree.findall(nodes.reference)):
            link.replace_self(link.children)


def setup(app: Sphinx) -> None:
    """Register what differs between the builders."""
    app.connect("doctree-resolved", without_links)
