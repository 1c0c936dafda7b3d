"""A busy server, hour by hour: domains are learnt, move, fail, and come back."""

import random
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
        self.known.add(domain)
        match = self.table.get(domain)
        if match and self.server(domain) not in match:
            self.waiting.setdefault(domain, self.hour)
        elif not match and domain in self.protected:
            self.clear[domain] += 1

    def run(self) -> None:
        """Do what the timer does each hour, and deliver what can be delivered then."""
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
