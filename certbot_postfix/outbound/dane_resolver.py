"""Whether DANE protects mail to a domain, as an SMTP client finds out: RFC 7672.

Raises `NetworkError`.
"""

from certbot_postfix.errors import NetworkError
from certbot_postfix.formats.tlsa import Record
from certbot_postfix.system import dns

# So many servers of a domain are asked about: more are those of nobody honest.
_SERVERS = 20


class DaneResolver(dns.Resolver):
    """A client of the resolvers in /etc/resolv.conf that knows DANE for mail."""

    def has_dane(self, domain: str) -> bool:
        """Whether DANE protects mail to *domain*, at each of its servers.

        RFC 8461, 2: MTA-STS must not override it where it fails.  A policy is for all
        servers of the domain, and one without usable records would be left with none.
        """
        servers = self.ask(domain, "MX")
        if not servers.secure:
            return False
        hosts = dns.hosts(servers, domain)
        return len(hosts) <= _SERVERS and all(map(self._has_dane, hosts))

    def _has_dane(self, host: str) -> bool:
        """Whether a client follows the TLSA records of *host*, as they are or not.

        RFC 7672, 2.1.1: while they cannot be looked up, nothing is delivered there.
        Those of a host whose addresses are not secure are not looked up: 2.2.2.
        """
        answers = [self.ask(host, kind) for kind in ("A", "AAAA")] if host else []
        addresses = [answer for answer in answers if answer.records]
        if not addresses or not all(answer.secure for answer in addresses):
            return False
        try:
            return self.has_tlsa(host)
        except NetworkError:
            return True

    def has_tlsa(self, host: str) -> bool:
        """Whether *host* has TLSA records for mail that a client does not ignore."""
        if not host:  # a null MX: RFC 7505
            return False
        answer = self.ask(f"_25._tcp.{host}", "TLSA")
        return answer.secure and not all(
            Record.of_rdata(rdata).unusable for rdata in answer.records
        )
