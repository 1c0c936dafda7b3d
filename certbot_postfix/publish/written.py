"""Where the policies of one's own domains were written, so that they are looked after.

A small file beside the bundles.  It may be lost: then nothing is known of them until
they are written again.
"""

import json
from pathlib import Path

from certbot_postfix.errors import Error
from certbot_postfix.formats.policy import parse_domain
from certbot_postfix.system import files

NAME = "mta-sts.json"


def read(root: Path) -> dict[str, Path]:
    """Return the directory that was given for each domain, as *root* has it."""
    try:
        fields = json.loads(files.read(root / NAME))
        return {
            parse_domain(domain, NAME): Path(webroot)
            for domain, webroot in fields.items()
        }
    except (Error, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def others(root: Path, domain: str, webroot: Path) -> list[str]:
    """Return which domains other than *domain* have the policy below *webroot*."""
    known = read(root).items()
    return [name for name, path in known if path == webroot and name != domain]


def note(root: Path, domain: str, webroot: Path) -> None:
    """Have *root* say that the policy of *domain* is below *webroot*."""
    known = read(root)
    if known.get(domain) == webroot:
        return
    for directory in (root.parent, root):
        files.make_directory(directory)
    fields = {name: str(path) for name, path in {**known, domain: webroot}.items()}
    text = json.dumps(dict(sorted(fields.items())), indent=2)
    files.replace(root / NAME, f"{text}\n".encode(), mode=0o600)
