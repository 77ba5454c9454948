"""A server of weights, an address that swallows packets, and processes that fetch all at once."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Files on a local port, by name: counts requests, and misbehaves as it is told."""

    def __init__(self, content: Mapping[str, bytes]) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.content = dict(content)
        self.cut_after: int | None = None
        self.cuts = 1_000  # replies that are cut
        self.seconds = 0.0
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.reply(with_body=False)

            def do_GET(self) -> None:
                self.reply(with_body=True)

            def reply(self, with_body: bool) -> None:
                name = self.path.rsplit("/", 1)[-1]
                outer.requests[self.command, name] += 1
                time.sleep(outer.seconds)
                body = outer.content.get(name)
                status = outer.status if body is not None else 404
                self.send_response(status)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                if with_body and status == 200:
                    outer.cuts -= 1
                    self.wfile.write((body or b"")[: outer.cut_after if outer.cuts >= 0 else None])

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign] - a client was killed on purpose
        self.address = f"http://127.0.0.1:{self.http.server_port}/"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@contextmanager
def swallowing() -> Iterator[str]:
    """An address that swallows the packets of a connection, as a firewall does: its queue is full."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        yield f"http://127.0.0.1:{full.getsockname()[1]}/"


# Processes of one import: each is a fork that waits for the word to go.
WORKERS = """
import json, os, sys
from vbmstat.assets import downloads
names, address, n = json.loads(sys.argv[1])
downloads.WEIGHTS["few"] = downloads.WeightSet("few", tuple(names), (address,), ("deepmriprep", "none"), "MIT")
waiting, go = os.pipe()
children = []
for _ in range(n):
    children.append(os.fork())
    if not children[-1]:
        os.close(go)
        os.read(waiting, 1)
        found = list(downloads.fetch("few").glob("*.pt"))
        os._exit(0 if len(found) == len(names) else 1)
os.close(go)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


def start(names: Sequence[str], address: str, n: int) -> subprocess.Popen[bytes]:
    """So many processes that all fetch the set ``few``, files of these names, in the same instant."""
    told = json.dumps([list(names), address, n])
    return subprocess.Popen([sys.executable, "-c", WORKERS, told], start_new_session=True)
