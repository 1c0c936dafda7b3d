"""Gets what strangers publish over HTTPS: with a limit to its size, and to its time.

The server's certificate is always verified, nothing but https is followed, and neither
proxies nor passwords of the environment are used: `http.client` does no more than it is
told.  Raises `PolicyError`.
"""

import http.client
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

from certbot_postfix.formats.policy import PolicyError, shown
from certbot_postfix.tls.hostnames import a_labels

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

    To look up the host takes as long as resolv.conf(5) allows, which is not in them.
    Who says nothing for so many seconds as *silence* has is waited for no longer.
    So many *redirects* are followed, to https only; one more is an answer like others.
    """

    size: int
    seconds: float
    redirects: int = 0
    silence: float = 20.0


def get(
    url: str,
    bounds: Bounds,
    authorities: Path | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Return the answer for *url* within *bounds*.

    The server is judged by the file *authorities*; None means those of the system.
    """
    end = time.monotonic() + bounds.seconds
    for left in range(bounds.redirects, -1, -1):
        answer = _once(url, bounds, end, authorities, headers or {})
        target = answer.headers.get("location")
        if not left or answer.status not in _REDIRECTS or not target:
            break
        url = _next(url, target)
    return answer


def _next(url: str, target: str) -> str:
    try:
        return urljoin(url, target)
    except ValueError as error:
        why = f"it redirects to {shown(target)}, which is no URL"
        raise PolicyError(f"{shown(url)}: {why}") from error


def _once(
    url: str,
    bounds: Bounds,
    end: float,
    authorities: Path | None,
    headers: Mapping[str, str],
) -> Answer:
    try:
        host, port, target = _split(url)
        with _connected(host, port, end, bounds.silence, authorities) as tls:
            # It would make a context of its own: that takes a while.
            trusted = _context(authorities)
            connection = http.client.HTTPSConnection(host, port, context=trusted)
            connection.sock = tls
            # What is compressed could become any size.
            connection.request(
                "GET",
                target,
                headers={
                    "User-Agent": "certbot-postfix",
                    "Accept-Encoding": "identity",
                    "Connection": "close",
                    **headers,
                },
            )
            # What reads from it keeps the connection open, also if that fails.
            with connection.getresponse() as response:
                found = {name.lower(): value for name, value in response.getheaders()}
                return Answer(response.status, found, _body(response, bounds.size))
    except (OSError, ValueError, http.client.HTTPException) as error:
        late = isinstance(error, TimeoutError) or time.monotonic() >= end
        why = "it did not answer in time" if late else _reason(error)
        raise PolicyError(f"{shown(url)}: {why}") from error


def _split(url: str) -> tuple[str, int, str]:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None:
        raise ValueError("only an https URL without a password is followed")
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    return a_labels(parts.hostname), parts.port or 443, target


class _Timed(ssl.SSLSocket):
    """A connection of which nothing is waited for when *end* has come.

    That is a time of `time.monotonic`.  Each wait takes *silence*, in seconds, at most.
    """

    end: float
    silence: float

    def recv_into(self, *arguments: Any) -> int:
        self.settimeout(_left(self.end, self.silence))
        return super().recv_into(*arguments)


def _left(end: float, silence: float) -> float:
    """Return how long to wait now; raise `TimeoutError` at the *end*."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return min(left, silence)


def _connected(
    host: str, port: int, end: float, silence: float, authorities: Path | None
) -> _Timed:
    with _dialled(host, port, end, silence) as plain:
        plain.settimeout(_left(end, silence))  # for the handshake as a whole
        # Who is in between could cut off an answer that ends with the connection,
        # unless TLS has to say that it ends: RFC 8446, 6.1.
        tls = cast(
            _Timed,
            _context(authorities).wrap_socket(
                plain, server_hostname=host, suppress_ragged_eofs=False
            ),
        )
    tls.end, tls.silence = end, silence
    return tls


def _dialled(host: str, port: int, end: float, silence: float) -> socket.socket:
    """Connect to the first address that answers; they share the time that is left."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failed = OSError("it has no address")
    for at, (*_, address) in enumerate(addresses):
        left = max(0.01, end - time.monotonic())
        try:
            one = (str(address[0]), port)
            share = min(silence, left / (len(addresses) - at))
            found = socket.create_connection(one, share)
        except OSError as error:
            failed = error
        else:
            return found
    raise failed


@lru_cache(maxsize=1)
def _context(authorities: Path | None) -> ssl.SSLContext:
    """Return the context; to read a bundle of authorities takes 20 ms and more."""
    found = ssl.create_default_context(cafile=str(authorities) if authorities else None)
    found.sslsocket_class = _Timed
    # Debian's Python passes over it; before OpenSSL 3, there is no such option.
    found.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    return found


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
    return shown(str(text)).strip("'\"") or type(error).__name__
