"""What postconf(1) prints, as values.

Pure.  The formats are those of postconf(1) with -d, -n, -x, -M and -P.
"""

import re
from collections.abc import Collection, Mapping

from certbot_postfix.postfix.configuration import Service


def pairs(text: str) -> dict[str, str]:
    """Read ``name = value`` lines; postconf(1) never folds them without -f."""
    pairs = (line.partition("=") for line in text.split("\n") if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def services(entries: str, written: str, expanded: str) -> tuple[Service, ...]:
    """Return the services; of several entries for one, the last counts."""
    raw, overrides = by_service(written), by_service(expanded)
    by_name: dict[str, Service] = {}
    for line in filter(None, entries.split("\n")):
        # name, type, private, unprivileged, chroot, wakeup, maximum, command
        name, kind, _, _, chroot, _, _, command = line.split(None, 7)
        service = f"{name}/{kind}"
        own, other = raw.get(service, {}), overrides.get(service, {})
        if service in by_name:
            # postconf -P merges the options of all entries.
            in_force = {match[1] or match[2] for match in _OPTION.finditer(command)}
            own, other = of_names(own, in_force), of_names(other, in_force)
        program = command.split(None, 1)[0]
        by_name[service] = Service(name, kind, program, other, own, chroot)
    return tuple(by_name.values())


# An option as postconf -M prints it, whichever form it has in master.cf.
_OPTION = re.compile(r"\s-o (?:\{([^=}]+)=[^}]*\}|([^\s={]+)=)")


def of_names(values: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if name in names}


def by_service(text: str) -> dict[str, dict[str, str]]:
    """Read ``service/type/name = value`` lines, as -P prints them."""
    settings: dict[str, dict[str, str]] = {}
    for key, value in pairs(text).items():
        service, _, parameter = key.rpartition("/")
        settings.setdefault(service, {})[parameter] = value
    return settings
