"""Publishes records by dynamic updates (RFC 2136) that a key has signed (RFC 8945).

Over TCP, as certbot-dns-rfc2136: what an update did is not known if its answer is lost,
and it may be too long for UDP.  Raises `errors.Error`.
"""

from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from certbot_postfix.errors import Error, NetworkError, excerpt
from certbot_postfix.formats.resource_record import ResourceRecord
from certbot_postfix.interfaces import IRecordPublisher
from certbot_postfix.publish import credentials
from certbot_postfix.publish.credentials import Credentials
from certbot_postfix.system.deadline import Deadline

if TYPE_CHECKING:
    from dns.message import Message
    from dns.name import Name
    from dns.rdata import Rdata
    from dns.update import UpdateMessage

# Seconds for one change, with all its questions.
_SECONDS = 30.0


def publisher(text: str) -> "DynamicUpdates":
    """Return what publishes with the credentials in the file *text*."""
    if not text:
        raise Error("no credentials file is given", hint="use rfc2136:FILE")
    return DynamicUpdates(credentials.read(Path(text)))


@implementer(IRecordPublisher)
class DynamicUpdates:
    """A server that takes updates, of which each changes one record."""

    def __init__(self, account: Credentials, seconds: float = _SECONDS) -> None:
        self._account, self._seconds = account, seconds
        port = "" if account.port == 53 else f" port {account.port}"
        self.label = f"the RFC 2136 server {account.server}{port}"

    def add(self, record: ResourceRecord) -> None:
        """Add *record*; the server ignores it if it is there: RFC 2136, 3.4.2.2."""
        change = _Change(self._account, record, Deadline(self._seconds))
        update = change.update()
        update.add(change.name, record.ttl, change.rdata)
        change.send(update)

    def remove(self, record: ResourceRecord, observed: AbstractSet[str]) -> None:
        """Remove *record* if there are exactly the *observed* ones: RFC 2136, 2.4.2."""
        change = _Change(self._account, record, Deadline(self._seconds))
        update = change.update()
        update.present(change.name, change.rdataset({*observed, record.rdata}))
        update.delete(change.name, change.rdata)
        try:
            change.send(update)
        except _ChangedError:
            if change.is_published():
                raise


class _ChangedError(Error):
    """The records are not those that were observed."""


class _Change:
    """One change of a *record*, until *deadline*."""

    def __init__(
        self, account: Credentials, record: ResourceRecord, deadline: Deadline
    ) -> None:
        import dns.name  # noqa: PLC0415 - certbot loads us on every run
        import dns.tsig  # noqa: PLC0415

        self._account, self._record, self._deadline = account, record, deadline
        self.name: Name = dns.name.from_text(record.name)
        self.rdata = self._rdata(record.rdata)
        self._key = dns.tsig.Key(account.key, account.secret, account.algorithm)

    def update(self) -> "UpdateMessage":
        """Return an update of the zone that has the record."""
        import dns.update  # noqa: PLC0415

        return dns.update.UpdateMessage(self._zone(), keyring=self._key)

    def rdataset(self, texts: AbstractSet[str]) -> Any:
        """Return the records of that type with the data *texts*."""
        import dns.rdataset  # noqa: PLC0415

        return dns.rdataset.from_rdata_list(0, [self._rdata(text) for text in texts])

    def is_published(self) -> bool:
        """Whether the server has the record."""
        reply = self._query(self._record.type)
        return any(
            self.rdata in rrset for rrset in reply.answer if rrset.name == self.name
        )

    def _rdata(self, text: str) -> "Rdata":
        import dns.exception  # noqa: PLC0415
        import dns.rdata  # noqa: PLC0415

        kind = self._record.type
        try:
            return dns.rdata.from_text("IN", kind, text)
        except (dns.exception.DNSException, ValueError) as error:
            raise Error(
                f"{excerpt(text)} is not valid data for a {kind} record"
            ) from error

    def _zone(self) -> "Name":
        """Return the zone: its SOA is in the answer, or tells that there is none."""
        import dns.flags  # noqa: PLC0415
        import dns.rcode  # noqa: PLC0415
        import dns.rdatatype  # noqa: PLC0415

        reply = self._query("SOA")
        zones = [
            rrset.name
            for rrset in (*reply.answer, *reply.authority)
            if rrset.rdtype == dns.rdatatype.SOA and self.name.is_subdomain(rrset.name)
        ]
        if not zones or not reply.flags & dns.flags.AA:
            code = dns.rcode.to_text(reply.rcode())
            raise Error(
                f"it does not have the zone of that name (it answers {code})",
                hint="updates go to the primary server of the zone",
            )
        return zones[0]

    def _query(self, kind: str) -> "Message":
        import dns.flags  # noqa: PLC0415
        import dns.message  # noqa: PLC0415

        query = dns.message.make_query(self.name, kind)
        query.flags = dns.flags.Flag(0)
        if self._account.sign_query:
            query.use_tsig(self._key)
        return self._exchange(query)

    def send(self, update: "UpdateMessage") -> None:
        """Have the server apply *update*, as a whole or not at all: RFC 2136, 3."""
        import dns.rcode  # noqa: PLC0415

        reply = self._exchange(update)
        code = dns.rcode.to_text(reply.rcode())
        if code in ("NXRRSET", "YXRRSET", "NXDOMAIN", "YXDOMAIN"):
            raise _ChangedError(
                "somebody else has changed the records of that name meanwhile, so"
                " nothing was changed",
                hint="run the command again; it reads them first",
            )
        if code != "NOERROR":
            raise Error(
                f"it answers {code}{_MEANING.get(code, '').format(self._account.key)}",
                hint=self._comparison if code in ("REFUSED", "NOTAUTH") else "",
            )
        if not reply.had_tsig:
            raise Error("its answer is not signed", hint=self._comparison)

    @property
    def _comparison(self) -> str:
        name, kind = self._record.name, self._record.type
        return (
            "compare name, secret and algorithm of the key, and the clocks; the server"
            f" must allow the key {self._account.key} to update {kind} records of"
            f" {name}"
        )

    def _exchange(self, message: "Message") -> "Message":
        import dns.exception  # noqa: PLC0415
        import dns.query  # noqa: PLC0415
        import dns.tsig  # noqa: PLC0415

        server, port = self._account.server, self._account.port
        try:
            return dns.query.tcp(message, server, self._deadline.left, port)
        except dns.tsig.PeerError as error:
            kind = type(error).__name__
            reason = _REFUSALS.get(kind, kind).format(self._account.key)
            raise Error(f"it answers {reason}", hint=self._comparison) from None
        except dns.exception.Timeout:
            raise NetworkError("it does not answer") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise NetworkError(f"it cannot be reached: {reason}") from None
        except (dns.exception.DNSException, ValueError, EOFError) as error:
            reason = str(error) or type(error).__name__
            # One of PowerDNS that refuses is not signed.
            raise NetworkError(
                f"its answer is not valid: {reason}", hint=self._comparison
            ) from None


# RFC 8945, 5.2 and 5.3.2.  For a name that is not allowed, Knot DNS 3.2 answers BADKEY,
# too, and 3.4 NOTAUTH.
_NOT_ALLOWED = "it does not know the key {}, or does not allow it to change this record"
_REFUSALS = {
    "PeerBadKey": f"BADKEY: {_NOT_ALLOWED}",
    "PeerBadSignature": "BADSIG: its key {} has another secret",
    "PeerBadTime": "BADTIME: its clock and that of this machine differ",
}
_MEANING = {
    "REFUSED": f": {_NOT_ALLOWED}",
    "NOTAUTH": f": {_NOT_ALLOWED}, or does not have the zone",
    "NOTIMP": ": it takes no updates",
}
