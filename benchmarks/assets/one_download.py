"""How often many processes on an empty cache download each file, and how long a node without network waits.

    python benchmarks/assets/one_download.py --processes 50

A server on a local port stands for the web: 21 files of 1 MB, named like deepmriprep's weights, half a second each.
The processes are forks of one that has imported the program, so that they all start in the same instant.
"""

from __future__ import annotations

import argparse
import collections
import http.server
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from vbmstat import downloads, io

RESULT = Path(__file__).parents[1] / "results" / "assets_one_download.json"
COMMAND = Path(sys.executable).with_name("vbmstat")
SIZE, DELAY_S = 1_000_000, 0.5
COUNTS: collections.Counter[tuple[str, str]] = collections.Counter()
NAMESPACE = ["unshare", "--user", "--net", "--map-root-user"]  # a network without interfaces


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves any name, and counts."""

    def do_HEAD(self) -> None:
        """Say that it is there."""
        self.reply(b"")

    def do_GET(self) -> None:
        """Send a file, slowly."""
        time.sleep(DELAY_S)
        self.reply(b"PK\x03\x04" + self.path.encode().ljust(SIZE - 4))

    def reply(self, body: bytes) -> None:
        """Send a body, and count."""
        COUNTS[self.command, self.path] += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def fork(n: int, work) -> list[int]:
    """Exit codes of n forks that start at one moment."""
    waiting, go = os.pipe()
    children = []
    for _ in range(n):
        children.append(os.fork())
        if not children[-1]:
            os.close(go)
            os.read(waiting, 1)
            os._exit(work())
    os.close(go)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def fill(address: str) -> int:
    """Fetch and use, as a process of a batch would."""
    folder = downloads.fetch("deepmriprep", address)
    return int(len(list(folder.glob("*.pt"))) != len(downloads.WEIGHTS["deepmriprep"].files))


@contextmanager
def listening(backlog: int, n_waiting: int):
    """An address that nobody serves; with a full queue the system drops the packets of further connections."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(backlog)
        waiting = [socket.socket() for _ in range(n_waiting)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(silent.getsockname())
        yield f"http://127.0.0.1:{silent.getsockname()[1]}/"
        for one in waiting:
            one.close()


def measure(*options: str, prefix: list[str] | None = None) -> dict[str, object]:
    """Seconds and words of ``vbmstat assets fetch`` where nothing can be reached, start of Python included."""
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        done = subprocess.run([*(prefix or []), str(COMMAND), "assets", "fetch", *options], capture_output=True,
                              text=True, check=False, env={**os.environ, downloads.FOLDER_VARIABLE: cache})  # fmt: skip
        seconds = round(time.perf_counter() - began, 1)
        left = [path.name for path in Path(cache).rglob("*") if path.is_file() and path.name != ".lock"]
    return {"seconds": seconds, "exit_code": done.returncode, "files_left": left, "says": done.stderr.strip()}


def without_network() -> dict[str, dict[str, object]]:
    """Each way in which a node has no network."""
    found = {"no network interface, no name server": measure(prefix=NAMESPACE)}
    with listening(0, 2) as address:
        found["packets vanish (firewall)"] = measure("--source", address)
    with listening(8, 0) as address:
        found["connected, but the server never answers"] = measure("--source", address)
    found["no such name"] = measure("--source", "http://no-such-host.invalid/")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=50)
    n = parser.parse_args().processes
    with tempfile.TemporaryDirectory() as cache:
        os.environ[downloads.FOLDER_VARIABLE] = cache
        reading, writing = os.pipe()
        if not os.fork():  # before any thread exists
            os.close(writing)
            address = os.read(reading, 100).decode()
            os._exit(any(fork(n, lambda: fill(address))))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        began = time.perf_counter()
        os.write(writing, f"http://127.0.0.1:{server.server_port}/".encode())
        failed = os.wait()[1]
        wall = round(time.perf_counter() - began, 1)
    downloads_of = {path: count for (method, path), count in COUNTS.items() if method == "GET"}
    result = {
        "processes": n, "all_succeeded": not failed, "wall_s": wall, "files": len(downloads_of),
        "downloads": sum(downloads_of.values()), "most_downloads_of_one_file": max(downloads_of.values()),
        "without_network": without_network(),
    }  # fmt: skip
    io.write_json(RESULT, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
