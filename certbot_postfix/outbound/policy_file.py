"""The table certbot_tls_policy as a file, read line by line.  Raises `errors.Error`."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TextIO

from certbot_postfix.formats.policy import Entry
from certbot_postfix.outbound import policy_map
from certbot_postfix.system import files, new_file


def entries(path: Path) -> Iterable[Entry]:
    """Yield the entries of the table at *path*; none if there is none."""
    if path.exists():
        with _opened(path) as text:
            yield from policy_map.parse(text, path)


def enforced(path: Path, most: int | None = None) -> list[str]:
    """Return the domains whose policies are enforced, up to so many entries."""
    return [entry.domain for entry in islice(entries(path), most) if entry.enforced]


def header(path: Path) -> policy_map.Header:
    """Return what the first lines of the table at *path* say."""
    with _opened(path) as text:
        return policy_map.header(text, path)


def until(path: Path) -> datetime | None:
    """Return when the first of the policies in the table at *path* ends."""
    return header(path).until


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    with (
        files.explained("read", path),
        files.opened(path, most=new_file.LARGEST) as file,
        # Whoever edits it may write another encoding.
        io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape") as text,
    ):
        yield text
