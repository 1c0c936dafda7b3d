"""What each ``certbot renew`` looks at where DANE is in use, or a key is staged."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from certbot_postfix import options
from certbot_postfix.dane import gate, staged, steps, store
from certbot_postfix.dane.steps import Rolling
from certbot_postfix.inbound import key_swap
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.system import lock

# Returns the value of an option.
Conf = Callable[[str], Any]


def advances(
    conf: Conf, lineage: Lineage, staged_key: Path, used: Sequence[Path]
) -> bool:
    """Whether the key of *lineage* may have to change, or its records.

    Its next key is in *staged_key*, if there is one; Postfix uses the bundles *used*.
    Whoever changes the key by means of this certbot does the rest himself; if he was
    killed, what he has replaced is to be put back.
    """
    rolling, now = Rolling(options.rolls_every(conf)), datetime.now(timezone.utc)
    memories = [store.load(path) for path in used if path.exists()]
    if key_swap.under_way(lineage):
        return not lock.held_by_ancestor(staged_key.parent)
    return staged_key.exists() or any(
        steps.may_come(memory, rolling, now) for memory in memories
    )


def problems(conf: Conf, root: Path, bundle: Path) -> Iterator[str]:
    """Yield what is wrong with the TLSA records of *bundle*, below *root*."""
    key = staged.load(root, bundle.stem)
    now = datetime.now(timezone.utc)
    yield from gate.watch(bundle, key, gate.Settings.of(conf), now)
