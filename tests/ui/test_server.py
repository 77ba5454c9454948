"""The server itself: a real socket, on this machine alone."""

from __future__ import annotations

import queue
import socket
import threading

import httpx
import pytest
import uvicorn

from vbmstat.errors import VbmstatError
from vbmstat.ui import images, server


def test_it_answers_on_the_loopback_address_to_who_has_the_token(folder, monkeypatch):
    monkeypatch.setattr(images, "template_bytes", bytes)
    running, said, opened = [], [], queue.SimpleQueue()
    monkeypatch.setattr("webbrowser.open", opened.put)
    own = uvicorn.Server
    monkeypatch.setattr(uvicorn, "Server", lambda config: running.append(own(config)) or running[0])
    monkeypatch.setattr(own, "capture_signals", lambda _: __import__("contextlib").nullcontext())
    ready = threading.Event()
    thread = threading.Thread(
        target=server.serve, args=(folder, 0, True, lambda text: (said.append(text), ready.set())), daemon=True
    )
    thread.start()
    assert ready.wait(10)
    address = said[0].split()[0]
    host, port = address.split("/")[2].split(":")
    assert host == "127.0.0.1"
    with httpx.Client(follow_redirects=True) as client:
        for _ in range(100):
            try:
                client.get(f"http://{host}:{port}/")
                break
            except httpx.ConnectError:
                pass
        assert httpx.get(f"http://{host}:{port}/api/folder").status_code == 403
        assert client.get(address).status_code == 200
        assert client.get(f"http://{host}:{port}/api/folder").json()["kind"] == "cohort"
        assert "server" not in client.get(f"http://{host}:{port}/api/folder").headers
    with pytest.raises((ConnectionError, TimeoutError)):  # another address of this machine, where 0.0.0.0 would listen
        socket.create_connection(("127.0.0.2", int(port)), timeout=5).close()
    with pytest.raises(VbmstatError, match=f"--port {port}: cannot be used"):
        server.serve(folder, int(port), browser=False, say=said.append)
    assert opened.get(timeout=10) == address  # half a second after the start: all above may take less
    running[0].should_exit = True
    thread.join(10)
    assert not thread.is_alive()
    assert opened.empty()


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(VbmstatError, match="no such folder; give the output folder"):
        server.serve(tmp_path / "nix", 0, browser=False, say=print)
