"""Whether Postfix can read the files of keys and certificates, and others cannot.

Pure: facts in, findings out.  How Postfix reads them is described in postconf(5),
smtpd_tls_chain_files; that TLS is off where it cannot, is in the mail log alone.
"""

import itertools
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from certbot_postfix.inbound import sni
from certbot_postfix.inbound.chain_files import Chain
from certbot_postfix.postfix.configuration import SNI_MAPS
from certbot_postfix.status.facts import Facts, File, Key, ca_files
from certbot_postfix.status.findings import Code, Finding, missing
from certbot_postfix.tls import purposes
from certbot_postfix.tls.certificates import Certificate


def check(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with the files that Postfix reads."""
    for chain in facts.chains:
        yield from _of_chain(facts, chain)
    for where, path in ca_files(facts.configuration).items():
        file = facts.files.get(path)
        if file and not file.exists:
            yield missing(path, _without_cas(where), where)
        elif file and not file.hidden:
            yield from _of_cas(facts, file, where)
    for sni_map in facts.sni_maps:
        if not sni_map.usable:
            consequence = "clients requesting a server name get no certificate"
            yield missing(sni_map.path, consequence, f"{SNI_MAPS} in main.cf")
    yield from _readable_maps(facts)
    yield from _readable_keys(facts)


def _of_chain(facts: Facts, chain: Chain) -> Iterator[Finding]:
    files = [facts.files[path] for path in chain.paths if path in facts.files]
    consequence = (
        "the client has no certificate, and may send unencrypted"
        if chain.client
        else "TLS is off where it is configured"
    )
    absent = [file.path for file in files if not file.exists]
    for path in absent:
        name = facts.lineage(path) if facts.is_bundle(path) else ""
        if chain.parameter == SNI_MAPS:
            consequence = "clients requesting its names get the default certificate"
        if name and facts.lineages.get(name):
            words = ["--cert-name", name, *facts.configuration.certbot_options]
            hint = shlex.join(["certbot-postfix", "deploy", *words])
            yield missing(path, consequence, chain.where, hint)
        else:
            yield missing(path, consequence, chain.where)
    seen = len(files) == len(chain.paths) and not any(
        file.hidden or file.partly for file in files
    )
    if seen and not absent:
        fault = _unusable(facts, files) or _mismatch(chain, files)
        if fault:
            code, path, message, hint = fault
            text = f"{path} {message}: {consequence}"
            yield Finding(code, str(path), text, hint, (chain.where,))
        elif chain.client:
            yield from _of_client(chain, files[0])
        else:
            yield from _incomplete(facts, chain, files)


Fault = tuple[Code, Path, str, str]


def _unusable(facts: Facts, files: Sequence[File]) -> Fault | None:
    presented = {handshake.leaf for handshake in facts.handshakes if handshake.leaf}
    # OpenSSL reads keys that cryptography does not know.
    served = any(
        certificate in presented for file in files for certificate in file.certificates
    )
    for file in files:
        if file.damage:
            message = f"cannot be read: {file.damage}"
        elif not file.blocks:
            message = "contains neither certificate nor key"
        elif any(not key.spki for key in file.keys) and not served:
            message = "contains a private key that is damaged, or encrypted"
        else:
            continue
        hint = "replace it by a complete PEM file, with a key that has no password"
        return Code.FILE_UNUSABLE, file.path, message, hint
    return None


def _mismatch(chain: Chain, files: Sequence[File]) -> Fault | None:
    """Return what is wrong with the order and the pairs of keys and certificates."""
    blocks: list[tuple[Path, Certificate | Key]] = []
    if chain.key:
        keys = [file for file in files if file.path == chain.key]
        blocks = [(file.path, key) for file in keys for key in file.keys[:1]]
        blocks += [
            (file.path, block)
            for file in files
            if file.path in chain.files
            for block in file.certificates
        ]
    else:
        blocks = [(file.path, block) for file in files for block in file.blocks]
    hint = "list each key directly before its certificate"
    before: Certificate | Key | None = None
    for path, block in blocks:
        if before is None and not isinstance(block, Key):
            return (
                Code.KEY_MISMATCH,
                path,
                "contains a certificate with no private key before it",
                hint,
            )
        if isinstance(before, Key) and isinstance(block, Key):
            return Code.KEY_MISMATCH, path, "follows a key without a certificate", hint
        known = block.spki and before and before.spki
        if isinstance(before, Key) and known and before.spki != block.spki:
            message = "contains a certificate that does not match the private key"
            return Code.KEY_MISMATCH, path, message, hint
        before = block
    if isinstance(before, Key):
        message = "contains a private key that no certificate follows"
        return Code.KEY_MISMATCH, blocks[-1][0], message, hint
    return None


def _of_client(chain: Chain, file: File) -> Iterator[Finding]:
    leaf = next(iter(file.certificates), None)
    if leaf and not purposes.of_clients(leaf):
        yield Finding(
            Code.CLIENT_PURPOSE,
            str(file.path),
            f"{file.path} is presented to other servers as the client's certificate,"
            " but is not valid for TLS clients (extended key usage): servers that check"
            " it reject it",
            f"unset {chain.parameter}, unless another server requires it; Let's Encrypt"
            " no longer issues client certificates",
            (chain.where,),
        )


def _incomplete(facts: Facts, chain: Chain, files: Sequence[File]) -> Iterator[Finding]:
    """Check what follows the leaf: its issuers, unless the clients know them."""
    if facts.configuration.value("smtpd_tls_CApath"):
        return  # OpenSSL completes a chain from there, too
    named = ca_files(facts.configuration).items()
    added = [
        certificate.subject
        for where, path in named
        if where.startswith("smtpd_") and path in facts.files
        for certificate in facts.files[path].certificates
    ]
    certificates = [certificate for file in files for certificate in file.certificates]
    keys = {key.spki for file in files for key in file.keys}
    for at, leaf in enumerate(certificates):
        if leaf.spki not in keys or leaf.self_signed or leaf.fault:
            continue
        rest = itertools.takewhile(
            lambda follower: follower.spki not in keys, certificates[at + 1 :]
        )
        subjects = [issuer.subject for issuer in rest]
        if leaf.issuer not in (*subjects, *added, *facts.roots):
            holder = next(file.path for file in files if leaf in file.certificates)
            yield Finding(
                Code.CHAIN_INCOMPLETE,
                str(holder),
                f"{holder} lacks the certificate of {leaf.issuer}, which issued {leaf}:"
                " clients cannot verify it",
                "use the full chain: certbot's fullchain.pem, not cert.pem",
                (chain.where,),
            )


def _without_cas(where: str) -> str:
    """Say what a file of CAs that Postfix cannot load does: no TLS, in any process."""
    if where.startswith("smtpd_"):
        return "TLS is off where it is configured, and clients send unencrypted"
    return "TLS is off in the client: mail is sent unencrypted, or deferred"


def _of_cas(facts: Facts, file: File, where: str) -> Iterator[Finding]:
    if not file.certificates:
        yield Finding(
            Code.FILE_UNUSABLE,
            str(file.path),
            f"{file.path} contains no CA certificates: {_without_cas(where)}",
            "use a CA bundle, such as /etc/ssl/certs/ca-certificates.crt",
            (where,),
        )
        return
    anchors = any(
        certificate.self_signed and purposes.of_authorities(certificate)
        for certificate in file.certificates
    )
    own = {leaf.spki for chain in facts.chains for leaf in facts.leaves(chain.files)}
    own_leaf = any(
        certificate.spki and certificate.spki in own
        for certificate in file.certificates
    )
    leaf_only = (
        all(certificate.self_signed for certificate in file.certificates)
        and not own_leaf
    )
    if where.startswith("smtpd_") or (anchors and not own_leaf) or leaf_only:
        return  # the server's may complete its own chain
    bundle = facts.configuration.ca_bundle or "the machine's CA bundle"
    yield Finding(
        Code.CA_FILE,
        str(file.path),
        f"{file.path} contains a server's certificate chain, not CAs: certificates of"
        " other servers cannot be verified",
        f"{where.split(maxsplit=1)[0]} = {bundle}",
        (where,),
    )


def _readable_maps(facts: Facts) -> Iterator[Finding]:
    ours = facts.configuration.directory / sni.NAME
    for sni_map in facts.sni_maps:
        texts = (sni_map.text,) if sni_map.path == ours else ()
        places = tuple(
            str(file.path) for file in (*texts, *sni_map.databases) if file.exposed
        )
        if places:
            yield Finding(
                Code.READABLE,
                str(sni_map.path),
                f"every user can read {' and '.join(places)}: the database of an SNI"
                " map holds the private keys, and gets the mode of its text",
                f"chmod 600 {' '.join(places)}, and replace the keys",
                places,
            )


def _readable_keys(facts: Facts) -> Iterator[Finding]:
    for chain in facts.chains:
        for path in chain.paths:
            file = facts.files.get(path)
            if file and file.exposed and file.keys:
                within = facts.is_bundle(path)
                object_ = path.parent if within else path
                private = f"chmod 700 {object_}" if within else f"chmod 600 {path}"
                yield Finding(
                    Code.READABLE,
                    str(object_),
                    f"every user can read the private key in {path}: whoever has it can"
                    " impersonate this server",
                    f"{private}, and replace the key",
                    (chain.where,),
                )
