"""Gets what strangers publish over HTTPS: with a limit to its size, and to its time.

The server's certificate is always verified, nothing but https is followed, and neither
proxies nor passwords of the environment are used.  Raises `NetworkError`.

It does not use `requests`, which reads the file of CAs for each server: 21 ms of the
processor instead of 1 (2.28 and 2.34), minutes for 10,000 domains.  Sharing a context
takes overriding its adapter; then an answer still takes 1.6 ms (with Debian 12's
urllib3 21, which reads CAs for each connection all the same), and the limit to the time
of the whole and the check for an answer that is cut off are needed as they are here.
"""

import http.client
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

from certbot_postfix.errors import NetworkError, excerpt
from certbot_postfix.system.deadline import Deadline, LateError
from certbot_postfix.system.hostnames import a_labels

_PIECE = 256 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered; names of *headers* are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many bytes an answer may have, and how many *seconds* all may take.

    A server that says nothing for *silence* seconds is waited for no longer.  So many
    *redirects* are followed, to https only; one more is an answer like others.
    """

    size: int
    seconds: float
    redirects: int = 0
    silence: float = 20.0


def get(
    url: str,
    bounds: Bounds,
    ca_file: Path | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Return the answer for *url* within *bounds*.

    The server is verified by the CAs in *ca_file*; None means those of the system.
    """
    request = _Request(bounds, Deadline(bounds.seconds), ca_file, headers or {})
    remaining = bounds.redirects
    while True:
        answer = request.send(url)
        target = answer.headers.get("location")
        if not remaining or answer.status not in _REDIRECTS or not target:
            return answer
        url, remaining = _next(url, target), remaining - 1


def _next(url: str, target: str) -> str:
    try:
        return urljoin(url, target)
    except ValueError as error:
        why = f"it redirects to {excerpt(target)}, which is no URL"
        raise NetworkError(f"{excerpt(url)}: {why}") from error


class _Timed(ssl.SSLSocket):
    """A connection of which nothing is waited for after the *deadline*.

    Each wait takes *silence*, in seconds, at most.
    """

    deadline: Deadline
    silence: float

    def recv_into(self, *arguments: Any) -> int:
        self.settimeout(_wait(self.deadline, self.silence))
        return super().recv_into(*arguments)


def _wait(deadline: Deadline, silence: float) -> float:
    """Return for how many seconds to wait; raise `TimeoutError` after *deadline*."""
    if seconds := min(deadline.left, silence):
        return seconds
    raise TimeoutError


@dataclass(frozen=True, slots=True)
class _Request:
    """What is sent to one server, and to those that it redirects to."""

    bounds: Bounds
    deadline: Deadline
    ca_file: Path | None
    headers: Mapping[str, str]

    def send(self, url: str) -> Answer:
        """Return the answer for *url*."""
        try:
            host, port, target = _split(url)
            with self._connected(host, port) as tls:
                # It would make a context of its own: that takes a while.
                context = _context(self.ca_file)
                connection = http.client.HTTPSConnection(host, port, context=context)
                connection.sock = tls
                # What is compressed could become any size.
                connection.request(
                    "GET",
                    target,
                    headers={
                        "User-Agent": "certbot-postfix",
                        "Accept-Encoding": "identity",
                        "Connection": "close",
                        **self.headers,
                    },
                )
                # What reads from it keeps the connection open, also if that fails.
                with connection.getresponse() as response:
                    headers = {key.lower(): text for key, text in response.getheaders()}
                    body = _body(response, self.bounds.size)
                    return Answer(response.status, headers, body)
        except (OSError, ValueError, LateError, http.client.HTTPException) as error:
            late = isinstance(error, TimeoutError | LateError) or not self.deadline.left
            why = "it did not answer in time" if late else _reason(error)
            raise NetworkError(f"{excerpt(url)}: {why}") from error

    def _connected(self, host: str, port: int) -> _Timed:
        silence = self.bounds.silence
        with self._dialled(host, port) as plain:
            # For the handshake as a whole.
            plain.settimeout(_wait(self.deadline, silence))
            # Who is in between could cut off an answer that ends with the connection,
            # unless TLS has to say that it ends: RFC 8446, 6.1.
            tls = cast(
                _Timed,
                _context(self.ca_file).wrap_socket(
                    plain, server_hostname=host, suppress_ragged_eofs=False
                ),
            )
        tls.deadline, tls.silence = self.deadline, silence
        return tls

    def _dialled(self, host: str, port: int) -> socket.socket:
        """Connect to the first address that answers; they share the time."""
        # The name is looked up for as long as resolv.conf(5) allows.
        addresses = self.deadline.within(
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
            "look up the host",
        )
        failure = OSError("it has no address")
        for number, (*_, address) in enumerate(addresses):
            share = max(0.01, self.deadline.left / (len(addresses) - number))
            try:
                return socket.create_connection(
                    (str(address[0]), port), min(self.bounds.silence, share)
                )
            except OSError as error:
                failure = error
        raise failure


def _split(url: str) -> tuple[str, int, str]:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None:
        raise ValueError("only an https URL without a password is followed")
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    return a_labels(parts.hostname), parts.port or 443, target


@lru_cache(maxsize=1)
def _context(ca_file: Path | None) -> ssl.SSLContext:
    """Return the context; to read a bundle of CAs takes 20 ms and more."""
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    context.sslsocket_class = _Timed
    # Debian's Python passes over it; before OpenSSL 3, there is no such option.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    return context


def _body(response: http.client.HTTPResponse, limit: int) -> bytes:
    if response.getheader("Content-Encoding", "identity").lower() != "identity":
        raise ValueError("the answer is compressed, which was not asked for")
    body = bytearray()
    while piece := response.read1(_PIECE):
        body += piece
        if len(body) > limit:
            raise ValueError(f"the answer is longer than {limit:,} bytes")
    if response.length:  # http.client lets what was cut off pass
        raise ValueError("the answer was cut off")
    return bytes(body)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, http.client.HTTPException):
        return "its answer is not that of an HTTP server"
    # Not every Python has SSLEOFError for it.
    if isinstance(error, ssl.SSLError) and "EOF" in str(error):
        return "the connection was cut off"
    text = error.strerror if isinstance(error, OSError) and error.strerror else error
    return excerpt(str(text)).strip("'\"") or type(error).__name__
