"""Which name gets which bundle: the table certbot_sni, as a value.

Pure, but that it follows symbolic links.  A key is what tls_server_sni_maps looks up,
postconf(5): a name in lower case, or for a wildcard the parent with a dot before it.  A
value is the chain files for it, one bundle for each type of key.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from certbot_postfix.errors import CertificateError, Error
from certbot_postfix.postfix import map_types, maps, own_names
from certbot_postfix.postfix.configuration import SNI_MAPS, Configuration, words_of
from certbot_postfix.system.hostnames import is_host

NAME = own_names.SNI_MAP
_TITLE = b"# Maps TLS server names (SNI) to the certificates presented for them.\n"
HEADER = _TITLE + b"# Written by certbot-postfix: edits are lost.\n"
_FORMER = b"# Which certificate is served to whom asks for which name.\n"

# Up to so many names, each process reads the bundles themselves (texthash); above, it
# looks into a database that has copies of them.  docs/how-it-works.rst has the figures.
LARGE = 200

# OpenSSL 3.2 to 3.6 may crash when a name's chain has a key of another type.
KEY_TYPES = ("RSA", "ECDSA", "Ed25519", "Ed448")

# A value lists files with commas or blanks between them, and nothing is quoted.
_SEPARATORS = re.compile(r'[\s,"]')

# File names, not paths: there may be ten thousand.
Table = Mapping[str, tuple[str, ...]]


def key(name: str) -> str:
    """Return what is looked up for *name*, or a wildcard; "" if nothing can be."""
    lower = name.lower()
    # Postfix looks up no other name, and none that could be an address.
    return lower.removeprefix("*") if is_host(lower.removeprefix("*.")) else ""


def refuse_unsafe(key_type: str) -> None:
    """Raise `CertificateError` for a *key_type* that no name may have."""
    if key_type not in KEY_TYPES:
        raise CertificateError(
            f"OpenSSL may crash when a key of type {key_type} is served via SNI",
            hint="renew it with --key-type ecdsa",
        )


def keys(names: Iterable[str]) -> set[str]:
    """Return the keys of all *names* that can be looked up."""
    return {key(name) for name in names} - {""}


def example_name(key: str, table: Collection[str]) -> str:
    """Return a name for which Postfix will find *key*."""
    name = key if not key.startswith(".") else f"any{key}"
    while key.startswith(".") and name in table:
        name = f"x{name}"
    return name


def parse(text: bytes, path: Path) -> dict[str, tuple[str, ...]]:
    """Read a table that `render` made; raise `Error` if it did not make it."""
    if not text.startswith((_TITLE, _FORMER)):
        raise Error(
            f"{path} was not written by this plugin, and is left unchanged",
            hint="give it another name, there and in main.cf",
        )
    return entries(text)


def entries(text: bytes) -> dict[str, tuple[str, ...]]:
    """Read the text of anybody's SNI map; of a key given twice, the first counts.

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
    table: dict[str, tuple[str, ...]] = {}
    for words in map(words_of, lines):
        if len(words) > 1:
            table.setdefault(words[0].lower(), tuple(words[1:]))
    return table


def tables(configuration: Configuration) -> list[tuple[str, Path]]:
    """Return the SNI maps of main.cf that have a text, with their types."""
    named = maps.files(configuration.value(SNI_MAPS))
    return [entry for entry in named if entry[0] in _TEXTUAL]


_TEXTUAL = ("texthash", *map_types.DATABASES)


def render(table: Table) -> bytes:
    """Return the text of *table*; raise `Error` if Postfix could not read it."""
    for path in bundles(table):
        if _SEPARATORS.search(path):
            raise Error(
                f"{SNI_MAPS} cannot name {path}: Postfix allows no blank, comma or"
                " quote there",
                hint="give the certificate another --cert-name, without one"
                if _SEPARATORS.search(Path(path).name)
                else "choose another --config-dir for certbot",
            )
    lines = (f"{key} {','.join(table[key])}\n" for key in sorted(table))
    return HEADER + "".join(lines).encode(errors="surrogateescape")


def bundles(table: Table) -> set[str]:
    """Return every bundle that *table* names."""
    return {path for paths in table.values() for path in paths}


def keys_with(table: Table, bundle: str) -> set[str]:
    """Return the keys for which *bundle* is served."""
    return {key for key, paths in table.items() if bundle in paths}


def renewed(
    table: Table, bundle: str, names: Iterable[str], default: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """Return *table* for the *names* that *bundle* has now.

    What left the certificate leaves the table.  What is new enters it, unless another
    bundle serves it; one that stands beside this one, also in the *default* chain,
    serves it with a key of another type, and gets company.
    """
    now = keys(names)
    partners = beside(table, bundle)
    partners |= set(default) if bundle in default else set()
    result = without(table, bundle, keys_with(table, bundle) - now)
    for key in sorted(now - keys_with(table, bundle)):
        paths = result.get(key, ())
        if partners.issuperset(paths):
            result[key] = (*paths, bundle)
    return result


def beside(table: Table, bundle: str) -> set[str]:
    """Return the bundles that are served for a name together with *bundle*."""
    together = (paths for paths in table.values() if bundle in paths)
    return {path for paths in together for path in paths} - {bundle}


def changed_keys(before: Table, after: Table, *renewed: str) -> set[str]:
    """Return the keys of *after* that have other bundles now, or one that is new."""
    return {
        key
        for key, paths in after.items()
        if before.get(key) != paths or not set(renewed).isdisjoint(paths)
    }


def without(
    table: Table, bundle: str, keys: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """Return *table* without *bundle* for *keys*."""
    reduced = {
        key: tuple(path for path in paths if path != bundle or key not in keys)
        for key, paths in table.items()
    }
    return {key: paths for key, paths in reduced.items() if paths}


def moved(table: Table, old: Collection[str], new: str) -> dict[str, tuple[str, ...]]:
    """Return *table* with the bundle *new* in the place of *old* ones."""
    return {
        key: tuple(dict.fromkeys(new if path in old else path for path in paths))
        for key, paths in table.items()
    }


def parents(key: str) -> set[str]:
    """Return the further keys that are looked up when *key* is not found."""
    labels = key.removeprefix(".").split(".")
    return {"." + ".".join(labels[at:]) for at in range(1, len(labels))}


def with_parents(keys: Iterable[str]) -> set[str]:
    """Return *keys*, and those that are looked up after them."""
    wanted = {*keys}
    return wanted.union(*map(parents, wanted))
