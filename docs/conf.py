"""Settings of Sphinx: `make docs`."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

_setup = Path(__file__).parents[1].joinpath("setup.py").read_text(encoding="utf-8")

project = "certbot-postfix"
author = "The certbot-postfix developers"
release = re.findall(r'version="(.*?)"', _setup)[0]
language = "en"

exclude_patterns = ["examples"]
nitpicky = True
smartquotes = False  # they would turn -- into a dash

html_theme = "alabaster"
html_theme_options = {"description": "Postfix plugin for certbot", "page_width": "64em"}
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
