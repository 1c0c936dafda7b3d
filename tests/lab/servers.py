"""Servers that the lab's network needs: ``python -m tests.lab.servers WHAT ...``."""

import asyncio
import contextlib
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def policies(
    address: str, port: str, bundle: str, directory: str, latency: str = "0"
) -> None:
    """Serve the file of *directory* that has the name of the domain asked for.

    One with ``.raw`` after that is a whole answer.  Each comes after *latency* seconds;
    who is asked for is written to the file ``asked``.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(float(latency))
            host = self.headers.get("Host", "").partition(":")[0]
            path = Path(directory, host.removeprefix("mta-sts."))
            raw = path.with_name(f"{path.name}.raw")
            with Path(directory, "asked").open("a") as log:
                log.write(f"{path.name}\n")
            if raw.is_file():
                self.wfile.write(raw.read_bytes())
                return
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
    {"policies": policies, "strip": strip}[sys.argv[1]](*sys.argv[2:])
