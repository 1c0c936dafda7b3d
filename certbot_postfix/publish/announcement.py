"""The TXT record that announces an MTA-STS policy, RFC 8461, 3.1.

There may be one only, so a new one takes the place of what counts beside it.
"""

from dataclasses import dataclass

from certbot_postfix.formats import mta_sts, txt
from certbot_postfix.formats.resource_record import ResourceRecord
from certbot_postfix.publish import changes
from certbot_postfix.publish.mta_sts import Resolver
from certbot_postfix.publish.publishers import Publisher
from certbot_postfix.publish.records import TTL


@dataclass(frozen=True, slots=True)
class Announcement:
    """The policy of *domain* with this *identity*: in DNS, by *publisher*."""

    domain: str
    identity: str
    resolver: Resolver
    publisher: Publisher

    @property
    def name(self) -> str:
        """The name of the record."""
        return f"_mta-sts.{self.domain}"

    @property
    def seen(self) -> bool:
        """Whether DNS has it, and no other."""
        return mta_sts.policy_id(self.resolver.texts(self.name)) == self.identity

    def publish(self) -> None:
        """Have it in DNS, and no other that counts; raise `Error` if that fails.

        It comes first: where the others stay, senders ignore all of them, and go on
        with the policy that they have.
        """
        data = txt.strings(mta_sts.record(self.identity))
        wanted = ResourceRecord(self.name, TTL, "TXT", data)
        texts = {data: txt.joined(data) for data in self.resolver.text_data(self.name)}
        counting = {*mta_sts.relevant(texts.values())}
        stale = [data for data, text in texts.items() if text in counting]
        for change in changes.replacing([wanted], texts.keys(), stale):
            change.apply(self.publisher)
