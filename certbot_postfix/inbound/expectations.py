"""Who must be presented what: the one answer to that, for every use case.

Pure: a `State` in, expectations out.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from certbot_postfix.inbound import chain_files, sni
from certbot_postfix.inbound.served import ServedFile
from certbot_postfix.inbound.state import State
from certbot_postfix.postfix.questions import Expectation
from certbot_postfix.postfix.services import own_certificate


def expected(
    state: State, keys: Collection[str], new: Collection[ServedFile] = ()
) -> list[Expectation]:
    """Return what is presented to clients without a server name, and for *keys*.

    Each of the files *new* must be presented for itself, also where a service names it
    in master.cf; of others that are served side by side, any may be.  For keys that the
    administrator's own SNI maps answer, nothing is expected.
    """
    return [*_in_services(state, new), *_by_name(state, keys, new)]


def _in_services(state: State, new: Collection[ServedFile]) -> Iterator[Expectation]:
    for file in new:
        if own := _with_own(state, file):
            yield Expectation(None, (file.leaf,), own)


def _by_name(
    state: State, keys: Collection[str], new: Collection[ServedFile]
) -> Iterator[Expectation]:
    paths = {file.path for file in new}
    yield from _chain(None, state.default, paths)
    files = {str(file.path): file for file in (*state.default, *state.peers)}
    known = state.table.keys() | state.answers.keys()
    for key in sorted(set(keys) - state.answers.keys()):
        chain = [files[path] for path in state.table.get(key, ()) if path in files]
        if key not in state.table and sni.parents(key).isdisjoint(known):
            chain = [*state.default]
        yield from _chain(sni.example_name(key, known), chain, paths)


def _chain(
    server_name: str | None,
    chain: Collection[ServedFile],
    new: Collection[Path],
) -> Iterator[Expectation]:
    """Yield what is presented where *chain* is served."""
    apart = [file for file in chain if file.path in new]
    for file in apart:
        yield Expectation(server_name, (file.leaf,))
    if chain and not apart:
        yield Expectation(server_name, tuple(file.leaf for file in chain))


def _with_own(state: State, file: ServedFile) -> frozenset[str]:
    """Return the services that name the file themselves, in master.cf."""
    return frozenset(
        str(service)
        for service in chain_files.with_certificates(state.configuration)
        if own_certificate(state.configuration, service)
        and file.path in chain_files.configured(state.configuration, service)
    )
