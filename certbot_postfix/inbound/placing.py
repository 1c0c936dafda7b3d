"""Where an installation has its lineage served, and what must not be lost by that."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from certbot_postfix.errors import Error
from certbot_postfix.inbound import chain_files, due, main_cf, placement, served
from certbot_postfix.inbound.bundles import is_bundle
from certbot_postfix.inbound.placement import Placement
from certbot_postfix.inbound.proposal import DeployOptions
from certbot_postfix.inbound.renewal_settings import RenewalReader
from certbot_postfix.inbound.served import ServedFile
from certbot_postfix.inbound.state import State
from certbot_postfix.postfix.configuration import SNI_MAPS
from certbot_postfix.tls.certificates import Certificate


def place(before: State, new: ServedFile, options: DeployOptions) -> Placement:
    """Decide where *new* is served; raise `Error` if it cannot be there."""
    placed = placement.place(new, before, datetime.now(timezone.utc))
    if options.replace:
        displaced = (*placed.displaced, *placed.kept)
        placed = replace(placed, displaced=displaced, kept=())
    else:
        _refuse_loss(before, new, placed)
    obstacle = _obstacle(before, options)
    if placed.by_name:
        placement.refuse(new, before.default, before.host, obstacle)
    elif obstacle and not before.table:
        return replace(placed, table={})
    return placed


def halves(before: State, placed: Placement) -> tuple[chain_files.Half, ...]:
    """Return what main.cf names for what is kept of the administrator's."""
    return tuple(filter(None, (_half(before, file) for file in placed.kept)))


def _others(before: State, new: ServedFile) -> dict[str, Certificate]:
    """Return the newest leaf certificate of each lineage but that of *new*."""
    live = before.bundles.live
    every = [lineage for lineage in due.lineages(live) if lineage.name != new.path.stem]
    leaves = ((lineage.name, lineage.leaf()) for lineage in every)
    return {name: leaf for name, leaf in leaves if leaf}


def warnings(before: State, new: ServedFile, placed: Placement) -> Iterator[str]:
    """Yield what clients lose, and who does not get the new certificate."""
    now = datetime.now(timezone.utc)
    displaced = [file.leaf for file in placed.displaced]
    lineages = _others(before, new) if displaced else {}
    yield from main_cf.lost(new.leaf, displaced, placed.table, now, lineages)
    for key, name in sorted(before.answers.items()):
        if str(new.path) in placed.table.get(key, ()):
            yield (
                f"your own {name} in main.cf already has an entry for {key} and takes"
                f" precedence; this certificate will not be used for {key}"
            )
    default = placement.default_after(new, placed, before.default)
    reader = RenewalReader(before.bundles.live.parent)
    yield from main_cf.uncovered(
        before.configuration, default, placed.table, now, reader.read
    )


def notes(before: State, new: ServedFile, placed: Placement) -> list[str]:
    """Say why a certificate is served via SNI only, and what that means."""
    if not placed.by_name:
        return []
    message = (
        f"{new.path.stem} is served via SNI only, since it does not cover"
        f" myhostname ({before.host}): most mail servers send no server name, and get"
        " the default certificate; those that verify by MTA-STS or DANE send one"
    )
    return [message]


def _half(before: State, kept: ServedFile) -> chain_files.Half | None:
    """Return what main.cf names for *kept*, None if that cannot stand alone."""
    return chain_files.half(
        before.configuration, kept.path, kept.leaf.key_type, served.private_keys
    )


def _refuse_loss(before: State, new: ServedFile, placed: Placement) -> None:
    """Raise `Error` if a certificate of the administrator's own cannot be kept.

    That is one half of an RSA and an ECDSA certificate, if it shares a file with
    the half that is replaced, or if the SNI map would hide it.
    """
    lost = list(_lost(before, placed))
    if not lost:
        return
    types = sorted({file.leaf.key_type for file in placed.kept} or {"other"})
    advice = "use --postfix-replace-default if that may be"
    if placed.kept:
        lineages = _others(before, new)
        advice += f", and {main_cf.second(new.leaf, types[0], lineages)}"
    raise Error(
        f"main.cf serves a second certificate by default, from {lost[0]}, which"
        f" cannot stay beside that of {new.path.stem}: clients that know no other"
        f" type of key ({', '.join(types)}) would get no TLS; no changes were made",
        hint=advice,
    )


def _lost(before: State, placed: Placement) -> Iterator[Path]:
    root = before.bundles.root
    hidden = placement.shared(placed.kept, root) & placed.table.keys()
    for file in placed.kept:
        if hidden or not _half(before, file):
            yield file.path
    now = datetime.now(timezone.utc)
    for file in placed.displaced:
        foreign = not is_bundle(file.path, root)
        good = foreign and not placement.useless([file], now)
        if good and served.private_keys(file.path) > 1:
            yield file.path


def _obstacle(before: State, options: DeployOptions) -> str:
    """Return why there may be no SNI map, or nothing."""
    if not options.by_name:
        return "--postfix-sni never rules out serving it via SNI"
    if SNI_MAPS not in before.configuration.defaults:
        return "Postfix before 3.4 has no SNI support"
    return ""
