"""The TXT record that announces an MTA-STS policy, RFC 8461, 3.1.

There may be one only, so a new one takes the place of what counts beside it.
"""

from dataclasses import dataclass

from certbot_postfix.formats import mta_sts, txt
from certbot_postfix.formats.resource_record import ResourceRecord
from certbot_postfix.publish.mta_sts import Resolver
from certbot_postfix.publish.publishers import Publisher

# Seconds.
_TTL = 3600


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
        texts = self.resolver.texts(self.name)
        wanted = mta_sts.record(self.identity)
        observed = {txt.strings(text) for text in texts}
        if wanted not in texts:
            self.publisher.add(self._record(wanted))
            observed.add(txt.strings(wanted))
        for text in mta_sts.relevant(texts):
            if text != wanted:
                self.publisher.remove(self._record(text), frozenset(observed))
                observed.discard(txt.strings(text))

    def _record(self, text: str) -> ResourceRecord:
        return ResourceRecord(self.name, _TTL, "TXT", txt.strings(text))
