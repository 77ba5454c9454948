"""How often many processes on an empty cache download each file, and how long a node without network waits.

    python benchmarks/assets/one_download.py --processes 50

A server on a local port stands for the web: 21 files of 1 MB, named like deepmriprep's, half a second a request.
The processes are forks of one that has imported the program, so that they all start in the same instant; the seconds
count from the first request.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.assets.weight_server import Server, start, swallowing
from vbmstat.assets import downloads
from vbmstat.image import storage

RESULT = Path(__file__).parents[1] / "results" / "assets_one_download.json"
COMMAND = Path(sys.executable).with_name("vbmstat")
SIZE, DELAY_S = 1_000_000, 0.5
NAMESPACE = ["unshare", "--user", "--net", "--map-root-user"]  # a network without interfaces


@contextmanager
def silent() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


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
    with swallowing() as address:
        found["packets vanish (firewall)"] = measure("--source", address)
    with silent() as address:
        found["connected, but the server never answers"] = measure("--source", address)
    found["no such name"] = measure("--source", "http://no-such-host.invalid/")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=50)
    n = parser.parse_args().processes
    names = downloads.WEIGHTS["deepmriprep"].files
    server = Server({name: b"PK\x03\x04" + name.encode().ljust(SIZE - 4) for name in names})
    server.seconds = DELAY_S
    with tempfile.TemporaryDirectory() as cache:
        os.environ[downloads.FOLDER_VARIABLE] = cache
        processes = start(names, server.address, n)
        while processes.poll() is None and not server.requests:
            time.sleep(0.001)
        began = time.perf_counter()
        failed = processes.wait()
        wall = round(time.perf_counter() - began, 1)
    downloads_of = {path: count for (method, path), count in server.requests.items() if method == "GET"}
    result = {
        "processes": n, "all_succeeded": not failed, "wall_s": wall, "files": len(downloads_of),
        "downloads": sum(downloads_of.values()), "most_downloads_of_one_file": max(downloads_of.values()),
        "without_network": without_network(),
    }  # fmt: skip
    storage.write_json(RESULT, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
