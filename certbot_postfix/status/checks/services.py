"""Whether the services answer, and present a certificate.

Pure: facts in, findings out.  A service that fails because of a file is no finding of
its own.
"""

from collections.abc import Iterator

from certbot_postfix.status.facts import Facts, Handshake, ca_files
from certbot_postfix.status.findings import Code, Finding

_IN_LOG = 'look for "disabling TLS support" or "fatal" in the mail log'


def check(facts: Facts, broken: frozenset[str]) -> Iterator[Finding]:
    """Yield which services fail for another reason than *broken* files."""
    directory = facts.configuration.directory
    if facts.elsewhere:
        yield Finding(
            Code.ANOTHER_RUNS,
            str(directory),
            f"the Postfix that is running was started with {facts.elsewhere}, and does"
            f" not read {directory}",
            f"certbot-postfix --postfix-config-dir {facts.elsewhere} status; or stop"
            f" that Postfix, and start it with {directory}",
        )
        return
    plain = [
        handshake for handshake in facts.handshakes if handshake.server_name is None
    ]
    silent = bool(plain) and not any(handshake.alive for handshake in facts.handshakes)
    if facts.running is False or (facts.running is None and silent):
        yield Finding(
            Code.NOT_RUNNING,
            str(directory),
            f"Postfix in {directory} is not running: no mail is received",
            f"postfix -c {directory} start, then see the mail log",
        )
        return
    yield from _failing(facts, broken)


def _failing(facts: Facts, broken: frozenset[str]) -> Iterator[Finding]:
    failing = [
        handshake
        for handshake in facts.handshakes
        if not handshake.seen and not _because_of(facts, handshake, broken)
    ]
    reported = {_object(handshake) for handshake in failing if handshake.alive}
    failed = {
        handshake.endpoint.service
        for handshake in failing
        if handshake.server_name is None
    }
    for handshake in failing:
        # Without TLS, a service with implicit TLS can but close the connection.
        closed = handshake.endpoint.implicit and _object(handshake) in reported
        if handshake.server_name is None and not handshake.alive and not closed:
            yield _silent(handshake)
        elif handshake.server_name is None or handshake.endpoint.service not in failed:
            yield _without_certificate(handshake)


def _silent(handshake: Handshake) -> Finding:
    service, address = handshake.endpoint.service, handshake.endpoint.address
    message = f"{service} does not answer ({handshake.failure}): clients cannot connect"
    hint = 'look for "fatal" in the mail log'
    return Finding(Code.NO_ANSWER, service, message, hint, (address,))


def _object(handshake: Handshake) -> str:
    return ", ".join(map(str, handshake.files)) or handshake.key or "main.cf"


def _without_certificate(handshake: Handshake) -> Finding:
    name = handshake.server_name
    client = f" to clients requesting {name}" if name else ""
    subject = f"{_object(handshake)} is not presented"
    if not handshake.files:
        subject = "no certificate is presented"
    return Finding(
        Code.NO_CERTIFICATE,
        _object(handshake),
        f"{subject}{client} ({handshake.failure}): clients send unencrypted, or give"
        " up",
        _IN_LOG,
        (handshake.endpoint.service,),
    )


def _because_of(facts: Facts, handshake: Handshake, broken: frozenset[str]) -> bool:
    by_name = handshake.server_name is not None
    if by_name and not broken.isdisjoint(
        str(sni_map.path) for sni_map in facts.sni_maps
    ):
        return True
    needed = {str(path) for path in handshake.files}
    needed |= {
        str(path)
        for where, path in ca_files(facts.configuration).items()
        if where.startswith("smtpd_")
    }
    for chain in facts.chains:
        if not needed.isdisjoint(map(str, chain.files)):
            needed.update(map(str, chain.paths))
    return not needed.isdisjoint(broken)
