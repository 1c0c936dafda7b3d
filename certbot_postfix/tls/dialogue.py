"""The dialogue of SMTP up to STARTTLS: one deadline for all of it, a limit of size.

smtplib has a timeout for each read, and no limit for the lines of a reply: a service
that sends a byte a second, or never ends its greeting, would hold it for ever.  The
replies are those of RFC 5321, section 4.2; STARTTLS is that of RFC 3207.  Raises
`OSError`, or `ReplyError` with the words of a service that does not start TLS.
"""

import contextlib
import socket

from certbot_postfix.system.deadline import Deadline

# The client's name is an address literal (RFC 5321, 4.1.3), so nobody asks the DNS.
LITERAL = "[127.0.0.1]"

# Bytes: a line of a reply has 512 at most (RFC 5321, 4.5.3.1.5), and there are few.
LIMIT = 64 * 1024

# Of a reply, in a message.
QUOTED = 300

# Seconds for the farewell: what was to be seen has been seen.
FAREWELL = 2.0

# Whatever the command: "service not available, closing transmission channel", and what
# Postfix answers to every command of a client that it has refused.
_REFUSING = (421, 503)

# smtpd(8) to a client that has reached a limit which anvil(8) counts for, also in
# answer to STARTTLS, with 454, by smtpd_client_new_tls_session_rate_limit.
LIMITED = "Error: too many"


class ReplyError(Exception):
    """A reply that is no step towards TLS; *refused*: this client is not let in."""

    def __init__(self, words: str, *, refused: bool) -> None:
        super().__init__(words)
        self.refused = refused


class Dialogue:
    """A client on *connection*, until *deadline*.

    *greeted* says whether the service has said anything that is a greeting, and
    *offers_tls* whether its answer to EHLO had STARTTLS.
    """

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self.connection = connection
        self.deadline = deadline
        self.greeted = False
        self.offers_tls = False
        self._received = b""
        self._space = LIMIT

    def begin(self) -> None:
        """Wait for the greeting, and answer it."""
        self._expect(220, "", refusing=True)
        self.greeted = True
        self.offers_tls = False
        self._expect(250, f"EHLO {LITERAL}", refusing=True)

    def start_tls(self) -> None:
        """Ask for TLS: what comes next is the handshake."""
        self._expect(220, "STARTTLS", refusing=False)

    def end(self, connection: socket.socket) -> None:
        """Leave politely, so that the mail log reports no lost connection.

        That is by the *connection* which came out of a handshake, if there was one.
        """
        self.connection = connection
        self.deadline = Deadline(min(self.deadline.left, FAREWELL))
        with contextlib.suppress(OSError, ReplyError):
            if not self.greeted:
                self._reply()
            self._send("QUIT")
            self._reply()

    def receive(self, size: int) -> bytes:
        """Return exactly *size* bytes of what is no dialogue any more."""
        while len(self._received) < size:
            self._more(size - len(self._received))
        found, self._received = self._received[:size], self._received[size:]
        return found

    def left(self) -> float:
        """Return how many seconds are left; raise `TimeoutError` if none are."""
        if left := self.deadline.left:
            return left
        raise TimeoutError("timed out")

    def _expect(self, expected: int, command: str, *, refusing: bool) -> None:
        if command:
            self._send(command)
        code, words = self._reply()
        if code != expected:
            self.greeted = True  # whatever it says, it is alive
            refused = code in _REFUSING or (refusing and code >= 400)
            refused |= code >= 400 and LIMITED in words
            raise ReplyError(words, refused=refused)

    def _send(self, command: str) -> None:
        self.connection.settimeout(self.left())
        self.connection.sendall(f"{command}\r\n".encode())

    def _reply(self) -> tuple[int, str]:
        """Return the code, 0 if there is none, and all of it in one line."""
        texts: list[str] = []
        while True:
            line = self._line().decode(errors="replace").rstrip("\r\n")
            code = int(line[:3]) if line[:3].isascii() and line[:3].isdigit() else 0
            texts.append(line[4:] if code and texts else line)
            self.offers_tls |= line[4:].strip().upper() == "STARTTLS"
            if not code or line[3:4] != "-":
                words = "".join(
                    letter if letter.isprintable() else " "
                    for letter in " ".join(texts)
                )
                return code, words.strip()[:QUOTED]

    def _line(self) -> bytes:
        while b"\n" not in self._received:
            self._more(4096)
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _more(self, size: int) -> None:
        self.connection.settimeout(self.left())
        received = self.connection.recv(min(size, self._space))
        if not received:
            raise ConnectionError("the connection was closed")
        self._received += received
        self._space -= len(received)
        if not self._space:
            self.greeted = True
            raise ReplyError("its reply does not end", refused=False)
