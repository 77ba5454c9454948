"""Serve a folder on this machine."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

import uvicorn

from vbmstat.errors import VbmstatError
from vbmstat.ui import images
from vbmstat.ui.app import make_app
from vbmstat.ui.security import LOOPBACK, new_token
from vbmstat.ui.study import Study


def serve(folder: Path, port: int, browser: bool, say: Callable[[str], None]) -> None:
    """Serve a folder until Ctrl-C, on the loopback address only.

    Parameters
    ----------
    folder : Path
        What is served.
    port : int
        0 for any free one.
    browser : bool
        Open the page.
    say : callable
        Called with the address.

    Raises
    ------
    VbmstatError
        If there is no such folder, or the port is taken.
    """
    if not folder.is_dir():
        msg = f"{folder}: no such folder; give the output folder of preprocess, results of glm, or a folder of scans"
        raise VbmstatError(msg)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
    except (OSError, OverflowError) as error:
        listening.close()
        msg = f"--port {port}: cannot be used ({error}); choose another, or leave it out for any free one"
        raise VbmstatError(msg) from error
    port, token = listening.getsockname()[1], new_token()
    address = f"http://{LOOPBACK}:{port}/?token={token}"
    config = uvicorn.Config(
        make_app(Study(folder.resolve()), token, port), log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    say(f"{address}\nOnly this machine can open it. Ctrl-C ends the server; jobs that run go on.")
    threading.Thread(target=images.template_bytes, daemon=True).start()
    if browser:
        threading.Timer(0.5, webbrowser.open, [address]).start()
    with listening:
        uvicorn.Server(config).run(sockets=[listening])
