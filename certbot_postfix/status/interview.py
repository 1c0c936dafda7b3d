"""Asks the services what they show, side by side, and takes note of the answers.

It sends no mail, and never waits longer than it may.
"""

import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from certbot_postfix.errors import ProofError, RefusedError, UnansweredError
from certbot_postfix.inbound import sni
from certbot_postfix.postfix import screening
from certbot_postfix.postfix.configuration import (
    SNI_MAPS,
    endpoints,
    with_own_certificate,
)
from certbot_postfix.status.evidence import Answer, Facts, Unseen
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.system.listeners import is_local
from certbot_postfix.tls import probe
from certbot_postfix.tls.endpoints import Endpoint
from certbot_postfix.tls.probe import Question

# Up to so many names are all asked for; of more, one name each of so many chains.
NAMES = 50
CHAINS = 50

# Which types of key a service can be asked for; see `probe`.
_TYPES = frozenset({"RSA", "ECDSA"})

# Side by side; a small server allows few smtpd processes.
PARALLEL = 8

# Seconds for one attempt: what hangs must not take the time of all others.
ATTEMPT = 10.0

# A question, and the key of the table that it is about, if any.
Asked = tuple[Question, str]


class Interview:
    """Asks the services of *facts*, side by side, until the *deadline*."""

    def __init__(self, facts: Facts, deadline: Deadline) -> None:
        self.known = facts
        self.deadline = deadline
        self.answers: dict[Asked, Answer] = {}
        self.unseen: list[Unseen] = list(facts.unseen)
        self.notes: list[str] = list(facts.notes)

    def facts(self) -> Facts:
        """Return the facts with the answers."""
        configuration = self.known.configuration
        found = [*endpoints(configuration)[0], *with_own_certificate(configuration)]
        found += screening.strangers(configuration)
        places = [endpoint for endpoint in found if is_local(endpoint.host)]
        plain = [(Question(each, None), "") for each in places if self._default(each)]
        # Half of the time: one that hangs must not take it all.
        self._ask(plain, self.deadline.left / 2)
        dead = {
            question.endpoint
            for question, _ in plain
            if not self.answers[question, ""].alive
        }
        self._part_with_strangers()
        answering = [each for each in places if each not in dead and not each.source]
        self._ask(self._further(answering), self.deadline.left)
        return replace(
            self.known,
            answers=tuple(self.answers.values()),
            unseen=tuple(self.unseen),
            notes=tuple(self.notes),
        )

    def _part_with_strangers(self) -> None:
        """Keep of a stranger's answers those that other clients do not get.

        postscreen may have reasons of its own not to answer one.
        """
        for asked, answer in list(self.answers.items()):
            endpoint = asked[0].endpoint
            if not endpoint.source:
                continue
            usual = replace(asked[0], endpoint=replace(endpoint, source=""))
            known = self.answers.get((usual, ""))
            if not answer.alive:
                self.unseen.append(Unseen(str(endpoint), answer.failure))
            if not answer.alive or (known and answer.seen == known.seen):
                del self.answers[asked]

    def _default(self, endpoint: Endpoint) -> bool:
        """Whether a certificate is due who asks for no name."""
        service = self.known.services[endpoint.service]
        value = self.known.configuration.value("smtpd_tls_cert_file", service)
        # Else it serves by name only.
        return value != "none" or bool(self.known.configured(Answer(endpoint)))

    def _further(self, answering: list[Endpoint]) -> list[Asked]:
        """Return the questions for names, and for further types of key."""
        names = self._names()
        found: list[Asked] = []
        for endpoint in {each.service: each for each in reversed(answering)}.values():
            if self._own_table(endpoint):
                continue
            found += [(Question(endpoint, name), key) for key, name in names.items()]
        plain = [(Question(each, None), "") for each in answering]
        return [
            *found,
            *(
                (replace(question, key_type=key_type), key)
                for question, key in (*plain, *found)
                for key_type in self._types(question, key)
            ),
        ]

    def _own_table(self, endpoint: Endpoint) -> bool:
        configuration = self.known.configuration
        service = self.known.services[endpoint.service]
        value = configuration.value(SNI_MAPS, service)
        return value != configuration.value(SNI_MAPS)

    def _names(self) -> dict[str, str]:
        """Return which names are asked for, by key."""
        table = self.known.table
        if table and len(table) <= NAMES:
            return {key: sni.example_name(key, table) for key in sorted(table)}
        by_chain: dict[tuple[Path, ...], str] = {}
        for key in sorted(table, key=lambda key: (key.startswith("."), key)):
            by_chain.setdefault(table[key], key)
        chains = sorted(by_chain, key=self._newest, reverse=True)[:CHAINS]
        if table:
            self.notes.append(
                f"the tables have {len(table)} names with {len(by_chain)} chains: one"
                f" name was asked for of each of {len(chains)} chains"
            )
        elif self.known.configuration.value(SNI_MAPS):
            host = self.known.configuration.value("myhostname")
            return {"": host}
        return {
            by_chain[chain]: sni.example_name(by_chain[chain], table)
            for chain in chains
        }

    def _newest(self, chain: Iterable[Path]) -> float:
        """What was renewed last is asked for first."""
        found = self.known.leaves(chain)
        return max((leaf.not_before.timestamp() for leaf in found), default=0.0)

    def _types(self, question: Question, key: str) -> list[str]:
        paths = self.known.configured(Answer(question.endpoint, key=key))
        found = {leaf.key_type for leaf in self.known.leaves(paths)}
        return sorted(found & _TYPES) if len(found) > 1 else []

    def _ask(self, questions: list[Asked], seconds: float) -> None:
        """Ask all *questions*, and take note of the answers that come in time."""
        pending = list(reversed(questions))
        done: dict[Asked, Answer] = {}
        end = time.monotonic() + seconds
        attempt = max(0.1, min(ATTEMPT, seconds / 2))

        def work() -> None:
            while pending and time.monotonic() < end:
                try:
                    asked = pending.pop()
                except IndexError:
                    return
                done[asked] = _answer(*asked, attempt)

        threads = [
            threading.Thread(target=work, daemon=True)
            for _ in range(min(PARALLEL, len(questions)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._note(questions, dict(done))

    def _note(
        self,
        questions: list[Asked],
        done: dict[Asked, Answer],
    ) -> None:
        late = 0
        for asked in questions:
            question, answer = asked[0], done.get(asked)
            if question.key_type and (answer is None or not answer.seen):
                plain = self._plain(asked)
                if plain is None or not plain.seen:
                    continue  # nor is there another certificate
                if plain.seen.leaf.key_type == question.key_type:
                    continue  # it was shown without being asked for
                # With TLS 1.3 alone, a type of key cannot be asked for.
                failure = answer.failure if answer else "no answer in time"
                reason = f"no client of TLS 1.2 that knows no other gets it: {failure}"
                what = f"the {question.key_type} certificate of {question}"
                self.unseen.append(Unseen(what, reason))
            elif answer:
                self._take(asked, answer)
            elif question.server_name is None:
                told = "no answer in time"
                silent = Answer(question.endpoint, failure=told, alive=False)
                self.answers[asked] = silent
            else:
                late += 1
        if late:
            reason = f"not asked within {self.deadline.seconds:g} seconds"
            self.unseen.append(Unseen(f"{late} answers for names", reason))

    def _take(self, asked: Asked, answer: Answer) -> None:
        """Keep an *answer*, unless it is what is shown without asking for a type."""
        before = self._plain(asked)
        known = before.seen.leaf if before and before.seen else None
        if not (known and answer.seen and answer.seen.leaf == known):
            self.answers[asked] = answer

    def _plain(self, asked: Asked) -> Answer | None:
        question, key = asked
        return self.answers.get((replace(question, key_type=""), key))


def _answer(question: Question, key: str, timeout: float) -> Answer:
    told = Answer(question.endpoint, question.server_name, key)
    try:
        return replace(told, seen=probe.look(question, timeout=timeout))
    except ProofError as error:
        rejected = bool(question.endpoint.source) and isinstance(error, RefusedError)
        alive = not (isinstance(error, UnansweredError) or rejected)
        return replace(told, failure=error.reason, alive=alive)
