"""A busy server, hour by hour: domains are learnt, move, fail, and come back."""

import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from certbot_postfix.errors import NetworkError
from certbot_postfix.formats.mta_sts import Published
from certbot_postfix.formats.policy import Mode
from certbot_postfix.outbound import domain_state, mta_sts_cache
from certbot_postfix.outbound.mta_sts import Recipients
from certbot_postfix.outbound.sources import Context, Settings
from certbot_postfix.postfix import sent_mail
from certbot_postfix.postfix.sent_mail import Position
from tests import test_outbound_mail as mail
from tests.lab.machine import wait_until
from tests.test_domain_state import let_pass
from tests.test_learning import SENT, be_due
from tests.test_outbound_mail import world
from tests.test_rules import configured

__all__ = ["world"]  # a fixture

BEGIN = datetime(2026, 11, 1, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


@dataclass
class World:
    """Domains that publish policies or none, and one server that sends mail to them.

    *version* is how often a domain has moved; those in *failing* do not answer in some
    hours.
    """

    directory: Path
    domains: list[str]
    protected: set[str]
    failing: dict[str, range]
    hour: int = 0
    version: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    position: Position = field(default_factory=Position)
    known: set[str] = field(default_factory=set)
    waiting: dict[str, int] = field(default_factory=dict)
    table: dict[str, tuple[str, ...]] = field(default_factory=dict)
    clear: Counter[str] = field(default_factory=Counter)
    longest: int = 0
    red: set[str] = field(default_factory=set)

    @property
    def now(self) -> datetime:
        return BEGIN + self.hour * HOUR

    def texts(self, name: str) -> list[str]:
        domain = name.removeprefix("_mta-sts.")
        if self.hour in self.failing.get(domain, ()):
            raise NetworkError(f"TXT of {name}: no answer")
        if domain not in self.protected:
            return []
        return [f"v=STSv1; id={self.version[domain]};"]

    def has_dane(self, _: str) -> bool:
        return False

    def fetch(self, domain: str, _: Path | None) -> Published:
        return Published(Mode.ENFORCE, (self.server(domain),), 86400)

    def server(self, domain: str) -> str:
        return f"mx{self.version[domain]}.{domain}"

    def send(self, domain: str) -> None:
        """Send a message, as Postfix does with what is in the table."""
        self.lines.append(SENT.format(domain))
        match = self.table.get(domain)
        if match and self.server(domain) not in match:
            self.waiting.setdefault(domain, self.hour)
        elif not match and domain in self.protected:
            self.clear[domain] += 1

    def learn(self) -> None:
        """Read what is new in the mail log, which is rotated each day."""
        log = self.directory / "mail.log"
        with log.open("a") as file:
            file.writelines(self.lines)
        self.lines.clear()
        if self.hour % 24 == 23:
            log.rename(log.with_name("mail.log.1"))
            log.touch()
        there = configured({"maillog_file": str(log)})
        self.known |= sent_mail.logged(there, self.position, time.time(), seconds=60)

    def run(self) -> None:
        """Do what the timer does each hour, and deliver what can be delivered then."""
        self.learn()
        path = self.directory / "domains"
        path.write_text("".join(f"{domain}\n" for domain in sorted(self.known)))
        context = Context(Settings(domains=str(path)), self.directory)
        waiting = frozenset(self.waiting)
        source = Recipients(replace(context, urgent=waiting), self, fetch=self.fetch)
        if source.due(self.now):
            source.refresh(self.now)
        self.table = {
            entry.domain: entry.policy.mxs for entry in source.policies(self.now)
        }
        for domain, since in list(self.waiting.items()):
            if self.server(domain) in self.table.get(domain, ()):
                self.longest = max(self.longest, self.hour - since)
                del self.waiting[domain]
        states, _ = mta_sts_cache.read(self.directory / "mta-sts.json")
        self.red |= {
            domain
            for domain, state in states.items()
            if domain_state.is_endangered(state, self.now)
        }


@pytest.mark.parametrize(
    ("count", "days"),
    [
        pytest.param(300, 4, id="a few"),
        pytest.param(10_000, 14, id="many", marks=pytest.mark.soak),
    ],
)
def test_nothing_goes_in_clear_nothing_waits_long_and_red_is_what_endangers_mail(
    tmp_path, count, days
):
    chance = random.Random(1)
    domains = [f"d{number}.example" for number in range(count)]
    protected = set(domains[: count * 3 // 100])
    moving = sorted(protected)[: max(2, count // 500)]
    never = dict.fromkeys(domains[count // 2 :: 50][: count // 100], range(days * 24))
    cut_off = {max(protected): range(30, 30 + 36)}  # for longer than its policy
    world = World(tmp_path, domains, protected, {**never, **cut_off})
    moves = {domain: chance.randrange(24, days * 24 - 2) for domain in moving}

    for world.hour in range(days * 24):
        for domain, hour in moves.items():
            world.version[domain] += hour == world.hour
        busy = {*chance.sample(domains, count // 10), *moving, *cut_off}
        for domain in sorted(busy):
            world.send(domain)
        world.run()

    (late,) = cut_off
    lost = world.clear.pop(late)
    print(
        f"{count} domains, {days} days: {world.clear.total()} first messages in clear,"
    )
    print(f"longest wait {world.longest} h, red {world.red}, {lost} when cut off")
    assert set(world.clear.values()) == {1}  # the first, by which a domain is learnt
    assert world.waiting == {}
    assert world.longest <= 1
    assert world.red == {late}
    assert 1 < lost < 36  # since its policy had ended, which status had said before


@dataclass
class Traffic:
    """Real mail of one server to so many domains, of which some have policies.

    *moved* is how often each of those has moved; mail to what is *attacked* comes to
    one who strips STARTTLS.
    """

    world: mail.World
    domains: list[str]
    protected: list[str]
    moved: Counter[str] = field(default_factory=Counter)
    attacked: set[str] = field(default_factory=set)
    sent: dict[str, list[str]] = field(default_factory=dict)

    def server(self, domain: str) -> str:
        return f"mx{self.moved[domain]}.{domain}"

    def publish(self, domain: str) -> None:
        address = mail.STRIPPED if domain in self.attacked else mail.RIGHT
        host = self.server(domain)
        records = [f"@ MX 10 {host}.", f"mx{self.moved[domain]} A {address}"]
        if domain in self.protected:
            records += [f"mta-sts A {mail.POLICIES}"]
            records += [f'_mta-sts TXT "v=STSv1; id={self.moved[domain]};"']
            self.world.network.policy(domain, host)
        self.world.network.publish(domain, *records)

    def change(self, *domains: str, attack: bool = False) -> None:
        """Let *domains* be attacked, and all others not, or else let them move."""
        before, self.attacked = self.attacked, set(domains) if attack else set()
        if not attack:
            self.moved.update(domains)
            self.certify()
        for domain in before.union(domains):
            self.publish(domain)

    def certify(self) -> None:
        """Let the servers have a certificate for the names that they have now."""
        self.world.right.certify(*map(self.server, self.protected))

    def send(self, *domains: str) -> None:
        for domain in domains:
            self.sent.setdefault(domain, []).append(self.world.send(f"you@{domain}"))

    def refresh(self) -> None:
        """Do what the timer does when an hour has passed; try again what waits."""
        let_pass(self.world, timedelta(hours=1))
        be_due(self.world)
        self.world.refresh()
        self.world.flush()

    def settle(self) -> None:
        """Wait until nothing is left to be tried now."""
        waiting, sender = self.world.sender.waiting, self.world.sender
        wait_until(lambda: sender.queued() == len(waiting()), "mail is sent or waits")

    def in_clear(self) -> set[str]:
        """Return the messages that came without TLS."""
        came = self.world.right.arrived()
        return set(mail.marks(text for text in came if "with ESMTPS" not in text))


def live(world: mail.World, *, count: int, hours: int) -> None:
    """Send mail for so many *hours*; check what came, how, and when."""
    chance = random.Random(1)
    domains = [f"d{number}.insecure" for number in range(count)]
    traffic = Traffic(world, domains, domains[: max(2, count * 3 // 100)])
    failing = domains[-max(1, count // 100) :]  # which announce a policy, and have none
    world.network.serve("strip", mail.RIGHT, address=mail.STRIPPED, port=25)
    world.network.serve_policies(*traffic.protected, *failing)
    traffic.certify()
    for domain in domains:
        traffic.publish(domain)
    for domain in failing:
        world.network.publish(
            domain,
            *(f"@ MX 10 mx0.{domain}.", f"mx0 A {mail.RIGHT}"),
            *(f"mta-sts A {mail.POLICIES}", '_mta-sts TXT "v=STSv1; id=1;"'),
        )
    world.policy("install", "--mta-sts-domains", "auto")
    world.sender.start()
    traffic.send(*traffic.protected)
    traffic.settle()

    for hour in range(hours):
        traffic.change(attack=True)  # it is over
        traffic.refresh()
        traffic.settle()
        assert world.sender.queued() == 0, world.sender.waiting()
        if hour % 48 == 24:
            traffic.change(traffic.protected[0])
        else:
            traffic.change(*traffic.protected[hour % 2 : 1], attack=True)
        busy = {*traffic.protected[:2], *chance.sample(domains, 3), *failing}
        traffic.send(*sorted(busy))
        traffic.settle()
    traffic.change(attack=True)
    traffic.refresh()
    traffic.settle()

    world.account()
    clear = traffic.in_clear()
    assert [name for name in traffic.protected if clear & {*traffic.sent[name]}] == []
    assert traffic.moved.total() == len(range(24, hours, 48))


@pytest.mark.postfix
@pytest.mark.soak
def test_in_two_weeks_no_real_mail_leaves_in_clear_or_waits_for_more_than_an_hour(
    world,
):
    live(world, count=200, hours=14 * 24)
