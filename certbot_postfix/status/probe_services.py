"""Connects to the services, side by side, to see which certificates they present.

It sends no mail, and never waits longer than its deadline.
"""

import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from certbot_postfix.errors import ProofError, RefusedError, UnansweredError
from certbot_postfix.inbound import sni
from certbot_postfix.postfix import screening
from certbot_postfix.postfix.configuration import SNI_MAPS
from certbot_postfix.postfix.services import endpoints, with_own_certificate
from certbot_postfix.status.facts import Facts, Handshake, Skipped
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.system.listeners import is_local
from certbot_postfix.tls import probe
from certbot_postfix.tls.endpoints import Endpoint
from certbot_postfix.tls.probe import Question

# Up to so many names are all requested; of more, one name each of so many chains.
NAMES = 50
CHAINS = 50

# Which types of key a service can be asked for; see `probe`.
_TYPES = frozenset({"RSA", "ECDSA"})

# Side by side; a small server allows few smtpd processes.
PARALLEL = 8

# Seconds for one attempt: what hangs must not take the time of all others.
ATTEMPT = 10.0

# A question, and the key of the SNI maps that it is about, if any.
Probe = tuple[Question, str]


def probe_services(facts: Facts, deadline: Deadline) -> Facts:
    """Return *facts* with what the services present before the *deadline*."""
    return _Prober(facts, deadline).facts()


class _Prober:
    def __init__(self, facts: Facts, deadline: Deadline) -> None:
        self.known = facts
        self.deadline = deadline
        self.handshakes: dict[Probe, Handshake] = {}
        self.skipped: list[Skipped] = list(facts.skipped)
        self.notes: list[str] = list(facts.notes)

    def facts(self) -> Facts:
        configuration = self.known.configuration
        places = [*endpoints(configuration)[0], *with_own_certificate(configuration)]
        places += screening.strangers(configuration)
        places = [endpoint for endpoint in places if is_local(endpoint.host)]
        plain = [
            (Question(endpoint, None), "")
            for endpoint in places
            if self._default(endpoint)
        ]
        # Half of the time: one that hangs must not take it all.
        self._run(plain, Deadline(self.deadline.left / 2))
        dead = {
            question.endpoint
            for question, _ in plain
            if not self.handshakes[question, ""].alive
        }
        self._drop_strangers()
        alive = [
            endpoint
            for endpoint in places
            if endpoint not in dead and not endpoint.source
        ]
        self._run(self._further(alive), self.deadline)
        return replace(
            self.known,
            handshakes=tuple(
                replace(
                    handshake,
                    files=self.known.configured(handshake.endpoint.service, key),
                )
                for (_, key), handshake in self.handshakes.items()
            ),
            skipped=tuple(self.skipped),
            notes=tuple(self.notes),
        )

    def _drop_strangers(self) -> None:
        """Keep of a stranger's handshakes those that differ from other clients'.

        postscreen may have reasons of its own not to answer one.
        """
        for (question, key), handshake in list(self.handshakes.items()):
            endpoint = question.endpoint
            if not endpoint.source:
                continue
            usual = replace(question, endpoint=replace(endpoint, source=""))
            known = self.handshakes.get((usual, ""))
            if not handshake.alive:
                self.skipped.append(Skipped(str(endpoint), handshake.failure))
            if not handshake.alive or (known and handshake.seen == known.seen):
                del self.handshakes[question, key]

    def _default(self, endpoint: Endpoint) -> bool:
        """Whether clients that request no name are to get a certificate."""
        service = self.known.services[endpoint.service]
        value = self.known.configuration.value("smtpd_tls_cert_file", service)
        # Else it serves via SNI only.
        return value != "none" or bool(self.known.configured(endpoint.service))

    def _further(self, alive: list[Endpoint]) -> list[Probe]:
        """Return the probes for names, and for further types of key."""
        names = self._names()
        named: list[Probe] = []
        for endpoint in {
            endpoint.service: endpoint for endpoint in reversed(alive)
        }.values():
            if self._own_sni_maps(endpoint):
                continue
            named += [(Question(endpoint, name), key) for key, name in names.items()]
        plain = [(Question(endpoint, None), "") for endpoint in alive]
        return [
            *named,
            *(
                (replace(question, key_type=key_type), key)
                for question, key in (*plain, *named)
                for key_type in self._types(question, key)
            ),
        ]

    def _own_sni_maps(self, endpoint: Endpoint) -> bool:
        configuration = self.known.configuration
        service = self.known.services[endpoint.service]
        value = configuration.value(SNI_MAPS, service)
        return value != configuration.value(SNI_MAPS)

    def _names(self) -> dict[str, str]:
        """Return which names are requested, by key."""
        known = self.known.names
        if known and len(known) <= NAMES:
            return {key: sni.example_name(key, known) for key in sorted(known)}
        by_chain: dict[tuple[Path, ...], str] = {}
        for key in sorted(known, key=lambda key: (key.startswith("."), key)):
            by_chain.setdefault(known[key], key)
        chains = sorted(by_chain, key=self._newest, reverse=True)[:CHAINS]
        if known:
            self.notes.append(
                f"the SNI maps have {len(known)} names with {len(by_chain)} chains: one"
                f" name was requested of each of {len(chains)} chains"
            )
        elif self.known.configuration.value(SNI_MAPS):
            host = self.known.configuration.value("myhostname")
            return {"": host}
        return {
            by_chain[chain]: sni.example_name(by_chain[chain], known)
            for chain in chains
        }

    def _newest(self, chain: Iterable[Path]) -> float:
        """What was renewed last is requested first."""
        leaves = self.known.leaves(chain)
        return max((leaf.not_before.timestamp() for leaf in leaves), default=0.0)

    def _types(self, question: Question, key: str) -> list[str]:
        paths = self.known.configured(question.endpoint.service, key)
        types = {leaf.key_type for leaf in self.known.leaves(paths)}
        return sorted(types & _TYPES) if len(types) > 1 else []

    def _run(self, probes: list[Probe], deadline: Deadline) -> None:
        """Run all *probes*, and keep the handshakes that are done in time."""
        pending = iter(probes)  # of which each thread takes the next
        done: dict[Probe, Handshake] = {}
        attempt = max(0.1, min(ATTEMPT, deadline.left / 2))

        def work() -> None:
            for question, key in pending:
                if not deadline.left:
                    return
                done[question, key] = _handshake(question, key, attempt)

        threads = [
            threading.Thread(target=work, daemon=True)
            for _ in range(min(PARALLEL, len(probes)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(deadline.left)
        self._sort(probes, dict(done))

    def _sort(self, probes: list[Probe], done: dict[Probe, Handshake]) -> None:
        late = 0
        for question, key in probes:
            handshake = done.get((question, key))
            if question.key_type and (handshake is None or not handshake.seen):
                self._skip_type(question, key, handshake)
            elif handshake:
                self._keep(question, key, handshake)
            elif question.server_name is None:
                failure = "no answer in time"
                silent = Handshake(question.endpoint, failure=failure, alive=False)
                self.handshakes[question, key] = silent
            else:
                late += 1
        if late:
            reason = f"not requested within {self.deadline.seconds:g} seconds"
            self.skipped.append(Skipped(f"{late} handshakes for names", reason))

    def _skip_type(
        self, question: Question, key: str, handshake: Handshake | None
    ) -> None:
        plain = self._plain(question, key)
        if plain is None or not plain.leaf:
            return  # nor is there another certificate
        if plain.leaf.key_type == question.key_type:
            return  # it was presented without being requested
        # With TLS 1.3 alone, a type of key cannot be requested.
        failure = handshake.failure if handshake else "no answer in time"
        reason = f"not served to TLS 1.2 clients that support no other: {failure}"
        what = f"the {question.key_type} certificate of {question}"
        self.skipped.append(Skipped(what, reason))

    def _keep(self, question: Question, key: str, handshake: Handshake) -> None:
        """Keep a *handshake*, unless no type of key is needed to get the same."""
        plain = self._plain(question, key)
        if not (plain and plain.leaf and handshake.leaf == plain.leaf):
            self.handshakes[question, key] = handshake

    def _plain(self, question: Question, key: str) -> Handshake | None:
        return self.handshakes.get((replace(question, key_type=""), key))


def _handshake(question: Question, key: str, timeout: float) -> Handshake:
    nothing = Handshake(question.endpoint, question.server_name, key)
    try:
        return replace(nothing, seen=probe.look(question, timeout=timeout))
    except ProofError as error:
        rejected = bool(question.endpoint.source) and isinstance(error, RefusedError)
        alive = not (isinstance(error, UnansweredError) or rejected)
        return replace(nothing, failure=error.reason, alive=alive)
