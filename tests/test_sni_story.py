"""The story of several certificates on one server, while mail flows."""

import contextlib
import itertools
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.lab import (
    NEWEST,
    OLDEST,
    Certbot,
    PrivatePostfix,
)
from tests.lab.clients import SCREENED, Asking, Mail, asking, everywhere
from tests.lab.machine import wait_until
from tests.lab.postfix import SERVICES
from tests.lab.scene import NAME, SHOP, STANDALONE, options, succeeded

pytestmark = pytest.mark.postfix

# A wildcard needs a challenge by DNS, and Pebble believes it without looking.
BY_DNS = ("-a", "manual", "--preferred-challenges", "dns", "--manual-auth-hook", "true")


STORY = {
    NAME: (*STANDALONE, "-d", NAME),
    "rsa": (*STANDALONE, "-d", NAME, "--cert-name", "rsa", "--key-type", "rsa"),
    "shop": (*STANDALONE, "-d", SHOP[0], "-d", SHOP[1], "--cert-name", "shop"),
    "wild": (*BY_DNS, "-d", "*.example.com", "--cert-name", "wild"),
}


SERVED = {
    NAME: [(None, "ecdsa"), (NAME, "ecdsa")],
    "rsa": [(None, "rsa"), (NAME, "rsa")],
    "shop": [(SHOP[0], "ecdsa"), (SHOP[1], "ecdsa")],
    "wild": [("one.example.com", "ecdsa"), ("two.example.com", "ecdsa")],
}


@pytest.fixture
def screened(base: Path) -> Iterator[PrivatePostfix]:
    """A running Postfix with postscreen before its smtp service."""
    with PrivatePostfix(base, postscreen=True) as postfix:
        yield postfix


class Story:
    """The lineages of `STORY`, and mail that flows while they are changed."""

    def __init__(self, certbot: Certbot, postfix: PrivatePostfix) -> None:
        self._certbot = certbot
        self._postfix = postfix

    def live(self, lineage: str) -> x509.Certificate:
        """Return the newest leaf that certbot obtained."""
        path = self._certbot.config_dir / "live" / lineage / "cert.pem"
        return x509.load_pem_x509_certificate(path.read_bytes())

    def demands(self, lineages: Collection[str]) -> list[Asking]:
        """Return what clients demand once *lineages* are deployed."""
        chain = self._certbot.config_dir / "live" / NAME / "chain.pem"
        return [
            asking(name, kind=kind, trusted=chain.read_bytes())
            for lineage in lineages
            for name, kind in SERVED[lineage]
            if name
        ]

    def shows_the_newest(self, lineages: Collection[str]) -> None:
        for lineage in lineages:
            for name, kind in SERVED[lineage]:
                shown = everywhere(self._postfix, name, kind=kind, roads=SCREENED)
                assert shown == self.live(lineage), (lineage, name, kind)

    def __call__(self, *args: str) -> str:
        return succeeded(self._certbot(*args))


@pytest.mark.parametrize(
    "executable",
    [
        pytest.param(NEWEST, id="newest certbot"),
        pytest.param(OLDEST, id="oldest certbot", marks=pytest.mark.soak),
    ],
)
def test_four_lineages_are_deployed_renewed_healed_and_rolled_back_while_mail_flows(
    base, screened, pebble, executable
):
    postfix, certbot = screened, Certbot(base, executable=executable, pebble=pebble)
    story = Story(certbot, postfix)
    oil = (postfix.config_dir / "snakeoil.pem").read_bytes()
    before = Mail(postfix, [asking("snakeoil", trusted=oil)])
    before.deliver()
    snapshots = []

    story_so_far: list[str] = []
    with contextlib.ExitStack() as flowing:
        for lineage, wanted in STORY.items():
            snapshots.append(postfix.snapshot())
            story("run", *wanted, *options(postfix))
            story_so_far.append(lineage)
            story.shows_the_newest(story_so_far)
            if lineage == NAME:
                mail = flowing.enter_context(Mail(postfix, []))
            mail.demands = story.demands(story_so_far)

        configuration = postfix.snapshot()
        # The oldest certbot renews everything once, the newest twice.
        for _ in range(2 if executable == NEWEST else 1):
            old = [story.live(lineage) for lineage in STORY]
            story("renew", "--force-renewal")
            assert not set(old) & {story.live(lineage) for lineage in STORY}
            story.shows_the_newest(STORY)

        miss(certbot, "shop")
        assert everywhere(postfix, SHOP[0]) != story.live("shop")
        story("renew")
        story.shows_the_newest(STORY)
        assert postfix.snapshot() == configuration

        for snapshot in reversed(snapshots[1:]):
            mail.demands = story.demands(story_so_far[:-1])
            story("rollback", *options(postfix))
            story_so_far.pop()
            assert postfix.snapshot() == snapshot
            story.shows_the_newest(story_so_far)
    story("rollback", *options(postfix))

    assert postfix.snapshot() == snapshots[0]
    after = Mail(postfix, before.demands)
    after.deliver()
    assert before.failed == mail.failed == after.failed == []
    assert set(mail.delivered) == set(
        itertools.product(SERVICES, {one.name for one in story.demands(STORY)})
    )
    accepted = sum(each.delivered.total() for each in (before, mail, after))
    wait_until(
        lambda: postfix.log().count("status=sent (") == accepted,
        "all messages are delivered",
    )


def miss(certbot: Certbot, name: str) -> None:
    """Have certbot killed after it renewed a lineage, before that is deployed."""
    hook = certbot.config_dir / "renewal-hooks/deploy/kill"
    # certbot starts a shell that starts this.
    hook.write_text(
        "#!/bin/sh\nread -r _ _ _ certbot _ < /proc/$PPID/stat\nkill -9 $certbot\n"
    )
    hook.chmod(0o755)
    done = certbot("renew", "--force-renewal", "--cert-name", name)
    assert done.returncode == -9, done.stderr
    hook.unlink()
