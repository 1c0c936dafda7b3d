"""Bundles that Postfix's files name no more, as after a panel wrote main.cf anew.

certbot goes on to renew such a lineage, and nobody sees that the old certificate, or
another one, is served.  That is reported once for each main.cf: a panel may write the
same text each night.  Starts no program, since certbot asks twice a day for every
lineage.
"""

import hashlib
from pathlib import Path

from certbot_postfix.inbound.lineage import mentions
from certbot_postfix.postfix import own_names
from certbot_postfix.system import files


def unreported(bundle: Path, directory: Path) -> bool:
    """Whether the files in Postfix's *directory* seem to name *bundle* no more."""
    main_cf = directory / "main.cf"
    if not bundle.exists() or not main_cf.is_file():
        return False
    return not names(directory, bundle) and _noted(bundle) != _digest(main_cf)


def names(directory: Path, bundle: Path) -> bool:
    """Whether the files in Postfix's *directory* seem to name *bundle*."""
    configured = (directory / "main.cf", directory / "master.cf")
    return any(mentions(path, bundle) for path in configured) or (
        mentions(directory / own_names.SNI_MAP, bundle)
        and any(
            own_names.SNI_MAP.encode() in files.read(path)
            for path in configured
            if path.is_file()
        )
    )


def message(bundle: Path, directory: Path, name: str, installer: str) -> str:
    """Return the message that the Postfix in *directory* names *bundle* no more."""
    return (
        f"{directory / 'main.cf'} does not name {bundle} any more: Postfix does not"
        f" serve the certificate that certbot renews\nHint: certbot install -i"
        f" {installer} --cert-name {name}; or, if that is meant, certbot-postfix forget"
        f" {name}"
    )


def note(bundle: Path) -> Path:
    """Return where it is noted which main.cf was reported."""
    return bundle.with_name(f".{bundle.name}.dropped")


def note_reported(bundle: Path, directory: Path) -> None:
    """Note that main.cf was reported as it is."""
    files.replace(note(bundle), _digest(directory / "main.cf"), mode=0o600)


def _noted(bundle: Path) -> bytes:
    return files.read(note(bundle)) if note(bundle).is_file() else b""


def _digest(main_cf: Path) -> bytes:
    return hashlib.sha256(files.read(main_cf)).hexdigest().encode()
