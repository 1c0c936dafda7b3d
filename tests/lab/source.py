"""A source of policies that somebody else has written, as an installed package.

It says what lies in a file beside it: so a test can change its mind.
"""

import json
from pathlib import Path

_MODULE = """
import json
from datetime import datetime, timezone
from pathlib import Path
from zope.interface import implementer
from certbot_postfix.interfaces import IPolicySource
from certbot_postfix.formats.policy import Entry, Mode, Policy, PolicyError

SAID = Path(__file__).with_name("said.json")

@implementer(IPolicySource)
class Source:
    label = "third party"

    def due(self, now):
        return True

    def refresh(self, now):
        if "failure" in json.loads(SAID.read_text()):
            raise PolicyError("the third party does not answer")

    def policies(self, now):
        told = json.loads(SAID.read_text())
        if "unreadable" in told:
            raise PolicyError("the third party has lost what it was told")
        said = told["said"]
        for domain, (mode, mxs, expires) in said.items():
            until = datetime.fromtimestamp(expires, timezone.utc)
            if until > now:
                yield Entry(domain, Policy(Mode(mode), tuple(mxs)), until, self.label)

def sources(context):
    return [Source()] if context.settings.domains else []
"""

_SLOW = """
import time

def refresh(self, now):
    asked = SAID.with_name("asked")
    asked.touch()
    while asked.exists():
        time.sleep(0.05)

Source.refresh = refresh
"""

LATER = 4_000_000_000
"""A time that is far away, in seconds since 1970."""


class ThirdParty:
    """The package below *directory*, which belongs on the path of Python.

    What it has is an entry point of *group*.
    """

    def __init__(
        self, directory: Path, group: str = "certbot_postfix.policy_sources"
    ) -> None:
        self.directory = directory
        self._module = directory / "third_party_policies.py"
        information = directory / "third_party_policies-1.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: third-party-policies\nVersion: 1\n"
        )
        (information / "entry_points.txt").write_text(
            f"[{group}]\nthird = third_party_policies:sources\n"
        )
        self.mend()
        self.say({})

    def say(self, said: dict[str, tuple[str, list[str], int]], **failure: bool) -> None:
        """Let it say this of each domain: mode, servers, and until when."""
        text = json.dumps({"said": said, **failure})
        self._module.with_name("said.json").write_text(text)

    def break_(self, line: str) -> None:
        """Let *line* be all that its module does."""
        self._module.write_text(f"{line}\n")

    def mend(self) -> None:
        """Let it work again."""
        self._module.write_text(_MODULE)

    @property
    def asked(self) -> Path:
        """What is there as soon as one that is slow was asked."""
        return self._module.with_name("asked")

    def be_slow(self) -> None:
        """Let it answer only when nobody has been told that it was asked."""
        self._module.write_text(_MODULE + _SLOW)
