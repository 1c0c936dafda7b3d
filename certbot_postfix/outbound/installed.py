"""What was set in main.cf for outbound policies, so that it can be undone later.

A small file beside what sources say: it may be lost, and then what it would have said
is left unchanged.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from certbot_postfix.errors import Error
from certbot_postfix.outbound.policy_map import PARAMETER
from certbot_postfix.postfix import maps
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.decisions import Change, Decision, Remove
from certbot_postfix.system import files

_NAME = "installed.json"


@dataclass(frozen=True, slots=True)
class Installed:
    """The *daemon* whose table was added, and *parameters*: old value, and new one.

    An old value that is None was not in main.cf.
    """

    daemon: str = ""
    parameters: dict[str, tuple[str | None, str]] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        """Whether anything was set."""
        return bool(self.daemon or self.parameters)

    def standing(self, configuration: Configuration, path: Path) -> "Installed":
        """Return what main.cf still has of it, beside the map at *path*.

        Where the policies are no longer named, somebody has restored main.cf, as
        `certbot rollback` does: what has the same value since then is not ours.
        """
        named = configuration.value(PARAMETER)
        daemon = self.daemon if self.daemon in maps.listed(named) else ""
        policies = self.daemon or path.exists()
        if policies and not daemon and not maps.map_type(named, path):
            return Installed()
        return Installed(
            daemon,
            {
                name: values
                for name, values in self.parameters.items()
                if configuration.explicit.get(name) == values[1]
            },
        )

    def after(self, decisions: Iterable[Decision], daemon: str) -> "Installed":
        """Return it with what *decisions* set, and with the *daemon* if one is added.

        What a parameter was before the first of them is kept.
        """
        parameters = dict(self.parameters)
        for change in decisions:
            if isinstance(change, Change) and change.name != PARAMETER:
                first, _ = parameters.get(change.name, (change.old, ""))
                parameters[change.name] = first, change.new
        return replace(self, daemon=daemon or self.daemon, parameters=parameters)

    def restored(self) -> Iterator[Decision]:
        """Yield what undoes it."""
        why = "outbound policies are removed"
        for name, (old, new) in self.parameters.items():
            if old is None:
                yield Remove(name, new, why)
            else:
                yield Change(name, new, old, why)


def read(directory: Path) -> Installed:
    """Return what the *directory* of sources says that was set."""
    try:
        fields = json.loads(files.read(directory / _NAME))
        parameters = {
            name: (old, new) for name, (old, new) in fields["parameters"].items()
        }
        texts = [
            fields["daemon"],
            *parameters,
            *(new for _, new in parameters.values()),
        ]
        olds = [old for old, _ in parameters.values() if old is not None]
        if all(isinstance(text, str) for text in [*texts, *olds]):
            return Installed(fields["daemon"], parameters)
    except (Error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return Installed()


def write(directory: Path, installed: Installed) -> None:
    """Keep in the *directory* of sources what was *installed*; nothing is no file."""
    path = directory / _NAME
    if not installed.any:
        files.remove(path)
    elif installed != read(directory):
        for place in (directory.parent.parent, directory.parent, directory):
            files.make_directory(place)
        text = json.dumps(asdict(installed)).encode()
        files.replace(path, text, mode=0o600)
