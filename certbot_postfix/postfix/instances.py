"""The Postfix instances of one machine: postmulti(1), multi_instance_directories.

An instance that cannot be read hinders no other one.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from certbot_postfix.errors import Error
from certbot_postfix.postfix.configuration import Configuration, words_of
from certbot_postfix.system.directories import real

if TYPE_CHECKING:
    from certbot_postfix.postfix.instance import Postfix

_PARAMETER = "multi_instance_directories"


def is_first(configuration: Configuration) -> bool:
    """Whether this instance is that in the directory compiled into Postfix."""
    return real(_first(configuration)) == real(configuration.directory)


def others(postfix: "Postfix", configuration: Configuration) -> list["Postfix"]:
    """Return the instances beside *postfix*, of which main.cf of the first one knows.

    The first is that in the directory compiled into Postfix.
    """
    first = _first(configuration)
    here = real(postfix.directory)
    if real(first) == here:
        listed = configuration.value(_PARAMETER)
    elif not (first / "main.cf").exists():
        return []
    else:
        try:
            listed = postfix.at(first).value(_PARAMETER)
        except Error:
            # Which there are is not known then, but that one is.
            return [postfix.at(first)] if _of_several(configuration) else []
    directories = [first, *(Path(path) for path in words_of(listed))]
    if here not in [real(directory) for directory in directories]:
        return []
    return [
        postfix.at(directory) for directory in directories if real(directory) != here
    ]


def _first(configuration: Configuration) -> Path:
    return Path(configuration.defaults.get("config_directory", ""))


def _of_several(configuration: Configuration) -> bool:
    """Whether postmulti(1) has made this instance one of several."""
    named = bool(configuration.value("multi_instance_name"))
    return named or configuration.flag("multi_instance_enable")
