"""What must be presented to whom: the questions of a verification.

Pure: the configuration, the table and certificates in, promises out.
"""

from collections.abc import Collection, Iterable, Iterator

from certbot_postfix.inbound import chain_files, sni
from certbot_postfix.inbound.placement import Deployed
from certbot_postfix.inbound.sni import Table
from certbot_postfix.postfix.configuration import SNI_MAPS, Configuration
from certbot_postfix.postfix.questions import Expectation
from certbot_postfix.postfix.services import own_certificate
from certbot_postfix.tls.certificates import Certificate


def promised(
    configuration: Configuration,
    table: Table,
    new: Collection[Deployed],
    answered: Collection[str],
) -> Iterator[Expectation]:
    """Yield what follows from having *new* deployed.

    The names that the administrator's tables have *answered* are not ours to promise.
    """
    default = chain_files.configured(configuration)
    for each in new:
        expected = (each.leaf,)
        if own := _with_own(configuration, each):
            yield Expectation(None, expected, own)
        keys = sni.keys_with(table, str(each.path))
        if each.path in default:
            yield Expectation(None, expected)
            if not table:
                keys = _unlisted(configuration, each.leaf, answered)
        for key in sorted(keys - set(answered)):
            yield Expectation(sni.example_name(key, table), expected)


def _with_own(configuration: Configuration, deployed: Deployed) -> frozenset[str]:
    """Return the services that name the bundle themselves, in master.cf."""
    return frozenset(
        str(service)
        for service in chain_files.with_certificates(configuration)
        if own_certificate(configuration, service)
        and deployed.path in chain_files.configured(configuration, service)
    )


def _unlisted(
    configuration: Configuration, leaf: Certificate, answered: Collection[str]
) -> set[str]:
    keys = sni.keys(leaf.names)
    if not configuration.value(SNI_MAPS):
        return set(sorted(keys)[:1])  # without any table, no name makes a difference
    return {key for key in keys if sni.parents(key).isdisjoint(answered)}


def restored(
    table: Table,
    keys: Iterable[str],
    default: Collection[Deployed],
    peers: Collection[Deployed],
) -> Iterator[Expectation]:
    """Yield what must be shown again when *default* and *keys* are as they were."""
    if default:
        yield Expectation(None, tuple(each.leaf for each in default))
    leaf = {str(each.path): each.leaf for each in peers}
    for key in sorted(keys):
        found = tuple(leaf[path] for path in table.get(key, ()) if path in leaf)
        if found:
            yield Expectation(sni.example_name(key, table), found)


def fallen_back(
    table: Table, keys: Iterable[str], default: Collection[Deployed]
) -> Iterator[Expectation]:
    """Yield what is shown for *keys* that are in *table* no more: the *default*."""
    expected = tuple(each.leaf for each in default)
    for key in sorted(set(keys) - table.keys()):
        if expected and sni.parents(key).isdisjoint(table):
            yield Expectation(sni.example_name(key, table), expected)
