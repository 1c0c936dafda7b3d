"""certbot renews for a key of ours: in place of its own, for as long as that takes.

With ``reuse_key``, certbot renews for the private key that ``live/NAME/privkey.pem``
leads to, and copies it into a new version; no option names another one (certbot 2.1 to
5.8: ``--key-path`` is ignored, and with the link led to an older version, 5.8 makes a
new key).  What was there is kept as a hard link before it is replaced, so whoever finds
that link puts it back: this run, or after a kill the next one of ours.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from certbot_postfix.errors import Error, short
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.system import files, new_file, programs, signals
from certbot_postfix.system.directories import real

# certbot of this environment, whatever PATH has; it has no ``-m``.
_CERTBOT = "import sys; from certbot.main import main; sys.exit(main())"

# Seconds.  DNS plugins wait for minutes.
_LONGEST = 3600

# Seconds that certbot may go on after Ctrl-C, at which it runs no post-hooks: a web
# server that a pre-hook has stopped would not be started again.  Who waits for us gives
# us a minute.
_PATIENCE = 30

# What certbot says before the reason for which it has not renewed, 2.1 to 5.8.
_CAUSE = " with error: "

_KEYS = "privkey*.pem"


def obtain(lineage: Lineage, key: bytes, spki: bytes, options: Sequence[str]) -> None:
    """Have certbot obtain a certificate of *lineage* for *key*, whose public one is
    *spki*; raise `Error` if it does not.

    *options* are certbot's directories.
    """
    words = ["renew", "--cert-name", lineage.name, "--force-renewal", "--reuse-key"]
    words += ["--no-random-sleep-on-renew", "--non-interactive", *options]
    with signals.interruptible(), _swapped(real(lineage.key), key):
        done = _certbot(*words)
    leaf = lineage.leaf()
    if leaf is None or leaf.spki != spki:
        raise Error(
            f"certbot obtained no certificate of {lineage.name} for the key"
            f" ({short(_reason(done.stderr), 200)}); the one in service is left"
            " unchanged",
            hint=f"certbot renew --cert-name {lineage.name} --dry-run says more",
        )


def _reason(said: str) -> str:
    """Return why certbot renewed nothing; its last line only counts failures."""
    lines = [line for line in said.splitlines() if line.strip()]
    causes = [line.partition(_CAUSE)[2] for line in lines if _CAUSE in line]
    return (causes or lines[-1:] or [programs.NO_REASON])[0]


@contextlib.contextmanager
def _swapped(path: Path, key: bytes) -> Iterator[None]:
    """Let the private key *path* of certbot's be *key* meanwhile."""
    files.back_up(path)
    try:
        files.rewrite(path, key)
        yield
    finally:
        with signals.uninterruptible():
            files.restore_backup(path)


def under_way(lineage: Lineage) -> bool:
    """Whether certbot's key of *lineage* is replaced, or was when a run was killed.

    certbot, killed while it moves its links in ``live``, leaves one of them out.
    """
    links = lineage.key.parent.glob("*.pem")
    return any(_kept(directory) for directory in {real(it).parent for it in links})


def repair(config_dir: Path) -> None:
    """Put back, below certbot's *config_dir*, what a killed run left replaced."""
    for directory in (config_dir / "archive").glob("*/"):
        for path in _kept(directory):
            files.restore_backup(path)
            files.remove(new_file.staging_name(path))


def fix_links(lineage: Lineage, options: Sequence[str]) -> None:
    """Have certbot fix its links to *lineage* if it was killed while it moved them.

    It does so whenever it reads the lineage.
    """
    if any(lineage.key.parent.glob("previous_*.pem")):
        _certbot("certificates", "--cert-name", lineage.name, *options)


def _certbot(*words: str) -> programs.Done:
    return programs.run_to_its_end(
        [sys.executable, "-c", _CERTBOT, *words],
        timeout=_LONGEST,
        environment=os.environ,  # proxies, CAs, and what hooks need
        patience=_PATIENCE,
    )


def _kept(directory: Path) -> list[Path]:
    """Return the private keys of which another one is kept in *directory*."""
    found = directory.glob(f".{_KEYS}{files.OLD}")
    return [
        path.with_name(path.name.removeprefix(".").removesuffix(files.OLD))
        for path in found
    ]
