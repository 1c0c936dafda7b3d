"""Tables of names that anybody wrote, for tls_server_sni_maps of postconf(5), as text.

Pure.
"""

import re
from pathlib import Path

from certbot_postfix.postfix import map_types
from certbot_postfix.postfix.configuration import SNI_MAPS, Configuration


def named(configuration: Configuration) -> list[tuple[str, Path]]:
    """Return the tables in files that tls_server_sni_maps of main.cf names."""
    value = configuration.value(SNI_MAPS)
    found = re.findall(r"([\w-]+):(/[^\s,{}]+)", value)
    return [(form, Path(path)) for form, path in found if form in _TEXTUAL]


_TEXTUAL = ("texthash", *map_types.DATABASES)


def entries(text: bytes) -> dict[str, tuple[Path, ...]]:
    """Read the text of any table of names; of a key given twice, the first counts.

    The syntax is that of postmap(1): a line that begins with blanks continues another.
    """
    lines: list[str] = []
    for line in text.decode(errors="surrogateescape").split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0].isspace() and lines:
            lines[-1] += line
        else:
            lines.append(line)
    found: dict[str, tuple[Path, ...]] = {}
    for words in (line.replace(",", " ").split() for line in lines):
        if len(words) > 1:
            found.setdefault(words[0].lower(), tuple(map(Path, words[1:])))
    return found
