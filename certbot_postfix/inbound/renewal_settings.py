"""What certbot does after it renewed a lineage: its installer, and its hooks.

certbot drops an installer that it does not know from renewal/NAME.conf, and exits with
0: a second certbot, without this plugin, renews once, and no renewal reaches Postfix
any more.  Where the files are is in certbot's manual, "Configuration file" and
"Renewing certificates".  Starts no program and writes nothing; what cannot be read is
unknown.
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import certbot
from certbot import util

from certbot_postfix.dane.staged import Kind
from certbot_postfix.errors import Error
from certbot_postfix.formats.caa import Issuance
from certbot_postfix.inbound import issuance
from certbot_postfix.system import files
from certbot_postfix.tls.certificates import Certificate

INSTALLER = "postfix"

# Files that certbot reads on each run, whatever its directory.
_EVERYWHERE = Path("/etc/letsencrypt/cli.ini")

# More bytes than a script has that people write for a hook.
_LARGEST = 100_000

_HOOKS = ("renew_hook", "deploy_hook", "post_hook")

_SETTING = re.compile(r"""\s*([\w-]+)\s*=\s*(["']?)(.*?)\2\s*""")
_DEPLOY = re.compile(r"(?m)^(?!\s*#).*\bcertbot-postfix\b(?:.|\\\n)*\bdeploy\b")


@dataclass(frozen=True, slots=True)
class RenewalSettings:
    """What *path* says, and what certbot does for all lineages.

    Renewals are deployed by our *installer*, or by a hook that runs ``deploy``.  They
    have the key of the certificate before, or a new one.  The *authenticator* is how
    the certificate was obtained, "" if that is unknown.
    """

    path: Path
    installer: bool
    hooked: bool
    keeps_key: bool
    authenticator: str = ""

    @property
    def deployed(self) -> bool:
        """Whether a renewal reaches Postfix."""
        return self.installer or self.hooked


class RenewalReader:
    """Reads the settings of lineages in certbot's directory *config_dir*."""

    def __init__(self, config_dir: Path, installer: str = INSTALLER) -> None:
        self.config_dir = config_dir
        self.installer = installer

    def read(self, name: str) -> RenewalSettings | None:
        """Return the settings of the lineage *name*, None if they cannot be read."""
        settings = self._own(name)
        if settings is None:
            return None
        here = any(runs_deploy(settings.get(hook, "")) for hook in _HOOKS)
        installers = (settings.get("installer"), self._of_all.get("installer"))
        keeps = {
            setting.get("reuse_key", "").lower() for setting in (settings, self._of_all)
        }
        return RenewalSettings(
            self._path(name),
            installer=self.installer in installers,
            hooked=here or self._hooked,
            keeps_key="true" in keeps,
            authenticator=settings.get("authenticator", ""),
        )

    def issuance(self, name: str) -> Issuance:
        """Return how the lineage *name* is issued, as far as that can be read."""
        settings = self._own(name)
        if settings is None:
            return Issuance()
        return issuance.read(self.config_dir, {**self._of_all, **settings})

    def kind(self, name: str, leaf: Certificate) -> Kind:
        """Return which kind of key the lineage *name* has; if unsaid, that of *leaf*.

        certbot refuses to renew for a key of another kind than its settings say.
        """
        settings = self._own(name) or {}
        bits = settings.get("rsa_key_size", "")
        return Kind(
            settings.get("key_type", leaf.key_type).lower(),
            int(bits) if bits.isdecimal() else leaf.rsa_bits or 2048,
            settings.get("elliptic_curve") or leaf.curve or "secp256r1",
        )

    def _path(self, name: str) -> Path:
        return self.config_dir / "renewal" / f"{name}.conf"

    def _own(self, name: str) -> dict[str, str] | None:
        try:
            return _settings(_text(self._path(name)))
        except Error:
            return None

    @cached_property
    def _of_all(self) -> dict[str, str]:
        """What cli.ini says for all lineages."""
        settings: dict[str, str] = {}
        for path in {_EVERYWHERE, self.config_dir / "cli.ini"}:
            try:
                settings |= _settings(_text(path))
            except Error:
                continue
        return settings

    @cached_property
    def _hooked(self) -> bool:
        """Whether a hook for all lineages runs our ``deploy``."""
        if any(runs_deploy(self._of_all.get(hook, "")) for hook in _HOOKS):
            return True
        directories = [
            self.config_dir / "renewal-hooks" / kind for kind in ("deploy", "post")
        ]
        return any(map(_is_hook, _inside(directories)))


def names_installer(path: Path, installer: str = INSTALLER) -> bool:
    """Whether the settings at *path* name *installer*; True if they cannot be read."""
    try:
        return _settings(_text(path)).get("installer") == installer
    except Error:
        return True


def missing(
    name: str, path: Path, options: Sequence[str], installer: str = INSTALLER
) -> Error:
    """Return what is wrong with the lineage *name* if nothing deploys its renewals.

    *options* are the words that a command needs besides, such as for another Postfix.
    """
    lines = [f"installer = {installer}"]
    for option, value in zip(options[::2], options[1::2], strict=True):
        lines.append(f"{option.removeprefix('--').replace('-', '_')} = {value}")
    return Error(
        f"Renewals of {name} will NOT reach Postfix: certbot's renewal configuration"
        f" has no `installer = {installer}`, and no deploy hook runs certbot-postfix",
        hint=_reconfigure(name, path, ["-i", installer, *options], lines),
    )


def keep_key(name: str, path: Path) -> str:
    """Return what has certbot keep the key of the lineage *name*, set at *path*."""
    return _reconfigure(name, path, ["--reuse-key"], ["reuse_key = True"])


def _reconfigure(
    name: str, path: Path, options: Sequence[str], lines: Iterable[str]
) -> str:
    """Return how to give the lineage *name* these *options*, or *lines* in *path*.

    certbot before 2.3 has no command for that.
    """
    if util.parse_loose_version(certbot.__version__) < [2, 3]:
        listed = " and ".join(f"`{line}`" for line in lines)
        return f"set {listed} below [renewalparams] in {path}"
    return shlex.join(["certbot", "reconfigure", "--cert-name", name, *options])


def runs_deploy(command: str) -> bool:
    """Whether a *command* of a shell runs our ``deploy``, or a script that does."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    scripts = [Path(word) for word in words if word.startswith("/")]
    return bool(_DEPLOY.search(command)) or any(map(_mentions_deploy, scripts))


def _is_hook(path: Path) -> bool:
    """Whether certbot runs the file *path*, and our ``deploy`` is in it."""
    try:
        executable = path.is_file() and path.stat().st_mode & 0o111
    except OSError:
        return False
    return bool(executable) and path.name[-1] != "~" and _mentions_deploy(path)


def _mentions_deploy(path: Path) -> bool:
    try:
        return bool(_DEPLOY.search(_text(path)))
    except Error:
        return False


def _inside(directories: Iterable[Path]) -> Iterable[Path]:
    for directory in directories:
        try:
            yield from sorted(directory.iterdir())
        except OSError:
            continue


def _settings(text: str) -> dict[str, str]:
    matches = filter(None, map(_SETTING.fullmatch, text.splitlines()))
    return {match[1].replace("-", "_"): match[3] for match in matches}


def _text(path: Path) -> str:
    return files.read(path, most=_LARGEST).decode(errors="replace")
