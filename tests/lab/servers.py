"""Servers that the lab's network needs: ``python -m tests.lab.servers WHAT ...``."""

import asyncio
import contextlib
import itertools
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def policies(
    address: str, port: str, bundle: str, directory: str, latency: str = "0"
) -> None:
    """Serve the file of *directory* that has the name of the domain asked for.

    Or the name in the path, if that is not where policies of MTA-STS are.

    One with ``.raw`` after that is a whole answer; that with the name ``*`` is for all
    that have none.  Each comes after *latency* seconds; without one, who is asked for
    is written to the file ``asked``.  Of several in *bundle*, with commas between
    them, who asks gets the one with the name.
    """
    context = _context(*bundle.split(","))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(float(latency))
            host = self.headers.get("Host", "").partition(":")[0]
            name = Path(self.path).name
            if name == "mta-sts.txt":
                name = host.removeprefix("mta-sts.")
            path = Path(directory, name)
            raw = path.with_name(f"{path.name}.raw")
            if not float(latency):
                with Path(directory, "asked").open("a") as log:
                    log.write(f"{path.name}\n")
            if raw.is_file():
                self.wfile.write(raw.read_bytes())
                return
            path = path if path.is_file() else path.with_name("*")
            text = path.read_bytes() if path.is_file() else b""
            self.send_response(200 if text else 404)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 1024

        def finish_request(self, request, client_address) -> None:
            # In the thread of the client: a handshake must not hold up others.
            with contextlib.suppress(OSError):
                tls = context.wrap_socket(request, server_side=True)
                super().finish_request(tls, client_address)

        def handle_error(self, *_: object) -> None:
            pass

    Server((address, int(port)), Handler).serve_forever()


def _context(*bundles: str) -> ssl.SSLContext:
    contexts = []
    by_name = {}
    for bundle in bundles:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(bundle)
        contexts.append(context)
        for name in Path(f"{bundle}.names").read_text().split():
            by_name[name] = context

    def choose(tls: ssl.SSLObject, name: str, _: ssl.SSLContext) -> None:
        tls.context = by_name.get(name, tls.context)

    contexts[0].sni_callback = choose
    return contexts[0]


def delay(address: str, port: str, server: str, latency: str) -> None:
    """Pass DNS over UDP on to *server*, port 53, and answers back after *latency*."""

    asked: dict[bytes, tuple[bytes, object]] = {}  # who, by the ID of the question
    identities = itertools.cycle(range(1 << 16))

    class Up(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, _: object) -> None:
            identity, client = asked.pop(data[:2])
            loop = asyncio.get_running_loop()
            loop.call_later(float(latency), self.back, identity + data[2:], client)

    class Down(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, client: object) -> None:
            identity = next(identities).to_bytes(2, "big")
            asked[identity] = data[:2], client
            self.forth(identity + data[2:])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        sender, up = await loop.create_datagram_endpoint(Up, remote_addr=(server, 53))
        receiver, down = await loop.create_datagram_endpoint(
            Down, local_addr=(address, int(port))
        )
        up.back, down.forth = receiver.sendto, sender.sendto
        await asyncio.Event().wait()

    asyncio.run(main())


def strip(address: str, port: str, server: str) -> None:
    """Pass SMTP on to *server*, port 25, as if it had no STARTTLS."""

    async def pump(reader, writer, *, hide: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                if hide and b"STARTTLS" in line:
                    line = line.replace(b"STARTTLS", b"XXXXXXXX")
                writer.write(line)
                await writer.drain()
        writer.close()

    async def serve(reader, writer) -> None:
        up, down = await asyncio.open_connection(server, 25)
        await asyncio.gather(
            pump(up, writer, hide=True), pump(reader, down, hide=False)
        )

    async def main() -> None:
        async with await asyncio.start_server(serve, address, int(port)) as listening:
            await listening.serve_forever()

    asyncio.run(main())


if __name__ == "__main__":
    {"delay": delay, "policies": policies, "strip": strip}[sys.argv[1]](*sys.argv[2:])
