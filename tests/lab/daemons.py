"""Stand-ins for resolver daemons: ``python -m tests.lab.daemons WHAT ADDRESS PORT``.

``tlspol`` answers as postfix-tlspol does, by its documentation and its source
(``internal/server.go``, ``dane.go``, ``mta-sts.go``): a domain whose MX hosts all
have usable TLSA records is ``dane-only``, one with TLSA records that cannot be used, or
behind an MX record that is not signed, is ``dane``; else what MTA-STS says counts.
``QUERYwithTLSRPT`` adds the attributes of Postfix 3.10 to the latter.  If DNS fails,
the answer is ``TEMP`` for DANE, and ``NOTFOUND`` for MTA-STS.
``sts`` knows MTA-STS alone, and, unlike Debian 12's postfix-mta-sts-resolver, domains
in UTF-8.  Both speak socketmap_table(5), in which a request is ``NAME KEY``.
"""

import ipaddress
import re
import socketserver
import sys
import urllib.request

import dns.exception
import dns.flags
import dns.resolver

_SECONDS = 5
_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")

# The octets of a digest, by the matching type of a TLSA record.
_DIGESTS = {1: 32, 2: 64}


class NoAnswerError(Exception):
    """There is no answer now."""


def resolve(name: str, kind: str) -> tuple[list, bool]:
    """Return the records, and whether the resolver has validated them."""
    resolver = dns.resolver.Resolver()
    resolver.use_edns(0, dns.flags.DO, 1232)
    try:
        answer = resolver.resolve(
            name, kind, raise_on_no_answer=False, lifetime=_SECONDS
        )
    except dns.resolver.NXDOMAIN:
        return [], False
    except dns.exception.DNSException as error:
        raise NoAnswerError from error
    return list(answer.rrset or ()), bool(answer.response.flags & dns.flags.AD)


def dane(domain: str) -> str:
    """Return the level that TLSA records ask for, "" if there are none."""
    servers, signed = resolve(domain, "MX")
    hosts = [str(each.exchange) for each in servers] or [domain] * signed
    found = [records for records in map(_tlsa, hosts) if records]
    if not found:
        return ""
    usable = all(any(map(_usable, records)) for records in found)
    return "dane-only" if signed and usable and len(found) == len(hosts) else "dane"


def _tlsa(host: str) -> list:
    if not any(all(resolve(host, kind)) for kind in ("A", "AAAA")):
        return []
    records, secure = resolve(f"_25._tcp.{host}", "TLSA")
    return records if secure else []


def _usable(record) -> bool:
    if record.usage not in (2, 3) or record.selector not in (0, 1):
        return False
    return record.mtype == 0 or _DIGESTS.get(record.mtype) == len(record.cert)


def sts(domain: str, *, report: bool = False) -> str:
    """Return what a policy of MTA-STS asks for, "" if there is none in force.

    With *report*, it has the attributes of TLSRPT_README as well.
    """
    texts, _ = resolve(f"_mta-sts.{domain}", "TXT")
    if not any(b"v=STSv1" in b"".join(each.strings) for each in texts):
        return ""
    url = f"https://mta-sts.{domain}/.well-known/mta-sts.txt"
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return ""
    fields = [line.split(": ", 1) for line in lines]
    if ["mode", "enforce"] not in fields:
        return ""
    names = [value.lower() for name, value in fields if name == "mx"]
    matches = ":".join(name.removeprefix("*") for name in names)
    told = [f"secure match={matches} servername=hostname"]
    if report:
        told += ["policy_type=sts", f"policy_domain={domain}"]
        told += [f"mx_host_pattern={name}" for name in names]
        told += [f"{{ policy_string = {line} }}" for line in lines]
    return " ".join(told)


def tlspol(command: str, key: str) -> str:
    """Answer as postfix-tlspol does, which knows no names that are not of DNS."""
    if command.upper() not in ("QUERY", "QUERYWITHTLSRPT"):
        return "PERM "
    domain, report = key.strip().lower().removesuffix("."), command.upper() != "QUERY"
    if not _NAME.fullmatch(domain) or _is_address(domain):
        return "NOTFOUND "
    if level := dane(domain):
        return f"OK {level}{' ' * report}"
    try:
        policy = sts(domain, report=report)
    except NoAnswerError:
        policy = ""
    return f"OK {policy}" if policy else "NOTFOUND "


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def only_sts(_: str, key: str) -> str:
    """Answer as a daemon that resolves MTA-STS, whatever its table is called."""
    if key.startswith("."):
        return "NOTFOUND "
    found = sts(key.encode("idna").decode())
    return f"OK {found}" if found else "NOTFOUND "


def main(what: str, address: str, port: str) -> None:
    """Serve for ever."""
    answer = {"tlspol": tlspol, "sts": only_sts}[what]

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while size := self._size():
                command, _, key = self.rfile.read(size).decode().partition(" ")
                self.rfile.read(1)  # the comma
                try:
                    told = answer(command, key).encode()
                except NoAnswerError:
                    told = b"TEMP "
                self.wfile.write(b"%d:%s," % (len(told), told))

        def _size(self) -> int:
            digits = b""
            while (byte := self.rfile.read(1)).isdigit():
                digits += byte
            return int(digits or 0)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    Server((address, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
