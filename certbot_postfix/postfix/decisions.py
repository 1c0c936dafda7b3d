"""What becomes of parameters of main.cf, as values that describe themselves.

Pure: rules yield decisions, and `change.staging` carries them out.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from certbot_postfix.errors import printable
from certbot_postfix.postfix.configuration import Configuration


@dataclass(frozen=True, slots=True)
class Change:
    """*name* becomes *new*; *old* is None where main.cf said nothing."""

    name: str
    old: str | None
    new: str
    why: str

    def __str__(self) -> str:
        old = "(unset)" if self.old is None else self.old or "(empty)"
        return printable(f"{self.name}: {old} -> {self.new} ({self.why})")


@dataclass(frozen=True, slots=True)
class CommentOut:
    """The lines of main.cf that set *name* become comments."""

    name: str
    old: str
    why: str

    def __str__(self) -> str:
        return printable(f"{self.name}: {self.old} -> commented out ({self.why})")


@dataclass(frozen=True, slots=True)
class Remove:
    """The lines of main.cf that set *name*, which this plugin wrote, go."""

    name: str
    old: str
    why: str

    def __str__(self) -> str:
        return printable(f"{self.name}: {self.old} -> removed ({self.why})")


@dataclass(frozen=True, slots=True)
class Kept:
    """*name* stays although the profile would have it otherwise."""

    name: str
    value: str
    why: str

    def __str__(self) -> str:
        value = self.value or "(empty)"
        return printable(f"{self.name}: keeping {value} ({self.why})")


Decision = Change | CommentOut | Remove | Kept


def applied(
    configuration: Configuration, decisions: Iterable[Decision]
) -> Configuration:
    """Return *configuration* as it will be when *decisions* are written."""
    changes = {
        decision.name: decision.new
        for decision in decisions
        if isinstance(decision, Change)
    }
    return replace(
        configuration,
        explicit={**configuration.explicit, **changes},
        values={**configuration.values, **changes},
    )


def change(configuration: Configuration, name: str, new: str, why: str) -> Change:
    return Change(name, configuration.explicit.get(name), new, why)


@dataclass(frozen=True, slots=True)
class Override:
    """An ``-o`` option of *service*, which hides what main.cf says.

    It is *harmless* if it is as strict as what is wanted.
    """

    service: str
    name: str
    value: str
    harmless: bool = False

    def __str__(self) -> str:
        value = self.value or "(empty)"
        return printable(
            f"master.cf overrides {self.name} for {self.service} (value: {value}). That"
            " setting is left unchanged, so main.cf has no effect there."
        )
