"""A list of tables, type:name, as a parameter of main.cf has it: postconf(5).

Pure, but that it follows symbolic links.  What an administrator wrote stays as it
stands: a table of ours enters the text, and leaves it.
"""

import os
import re
from pathlib import Path


def map_type(value: str, path: Path) -> str:
    """Return the type of map as which *value* names the table at *path*, or ""."""
    match = _ours(path, value).search(value)
    return match[1] if match else ""


def before(value: str, path: Path) -> list[str]:
    """Return the tables in *value* that Postfix asks before the one at *path*."""
    tables = listed(value)
    ours = (
        at for at, table in enumerate(tables) if _ours(path, table).fullmatch(table)
    )
    return tables[: next(ours, len(tables))]


def listed(value: str) -> list[str]:
    """Split a list of tables: braces hold some that have blanks or commas in them."""
    words, depth = [""], 0
    for character in value:
        depth += (character == "{") - (character == "}")
        if depth or not (character.isspace() or character == ","):
            words[-1] += character
        elif words[-1]:
            words.append("")
    return [word for word in words if word]


def files(value: str) -> list[tuple[str, Path]]:
    """Return the tables in *value* that have a path, also in braces, with their types.

    A path may be that of a socket: the type says what it is.
    """
    matches = re.findall(r"([\w-]+):(/[^\s,{}]+)", value)
    return [(kind, Path(path)) for kind, path in matches]


def named(old: str, path: Path, map_type: str) -> str:
    """Return the value *old* of the parameter with our table in it, as *map_type*."""
    match = _ours(path, old).search(old)
    if match:
        return f"{old[: match.start(1)]}{map_type}{old[match.end(1) :]}"
    ours = f"{map_type}:{path}".replace("$", "$$")
    return f"{old}, {ours}" if old else ours


def unnamed(old: str, path: Path) -> str:
    """Return the value *old* of the parameter without our table."""
    return re.sub(r"[\s,]*$|^[\s,]*", "", _ours(path, old).sub("", old))


def _ours(path: Path, value: str) -> re.Pattern[str]:
    """Match our table in a value, as it is in force or as it is written."""
    directory = r"\$(?:config_directory|\{config_directory\}|\(config_directory\))"
    forms = {re.escape(str(path)), re.escape(str(path).replace("$", "$$"))}
    named = (Path(name.partition(":")[2]) for name in listed(value))
    forms |= {
        re.escape(str(candidate))
        for candidate in named
        if candidate.name == path.name
        and os.path.realpath(candidate.parent) == os.path.realpath(path.parent)
    }
    written = "|".join([*sorted(forms), f"{directory}/{re.escape(path.name)}"])
    return re.compile(rf"(?<![^\s,])([\w-]+):(?:{written})(?![^\s,])")
