"""Who may ask: what a page of another site, or somebody on this machine, could try."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.ui.conftest import ADDRESS, PORT, TOKEN, Browser, signed_in, stranger
from vbmstat.image import storage
from vbmstat.ui.app import make_app
from vbmstat.ui.security import MOST_BYTES, new_token


def refused(answer, status: int = 403) -> str:
    """The sentence of a refusal, which is neither a trace nor blank."""
    assert answer.status_code == status
    text = answer.text if answer.headers["content-type"].startswith("text/plain") else answer.json()["error"]
    assert text
    assert "Traceback" not in text
    return text


def test_a_token_is_long_and_never_the_same():
    assert len({new_token() for _ in range(100)}) == 100
    assert len(new_token()) >= 43  # 256 bits


@pytest.mark.parametrize("cookie", [None, "", "wrong", TOKEN[:-1], TOKEN + "x", "ü"])
def test_nothing_is_answered_without_the_token(study, cookie):
    client = stranger(study)
    headers = {} if cookie is None else {"cookie": f"vbmstat-{PORT}={cookie}".encode()}
    for path in ("/", "/api/folder", "/api/file/cohort.tsv", "/app/app.js", "/nowhere"):
        assert "token is missing or wrong" in refused(client.get(path, headers=headers))
    assert refused(client.put("/api/exclusions/sub-01", json={"reason": "x"}, headers=headers))
    assert not (study.run / "exclusions.tsv").exists()


def test_the_token_in_the_address_becomes_a_cookie_that_scripts_and_other_sites_have_not(study):
    client = stranger(study)
    for wrong in ("", "wrong", f"{TOKEN}x"):
        refused(client.get(f"/?token={wrong}"))
    refused(client.get(f"/api/folder?token={TOKEN}"))  # only the page's own address
    answer = client.get(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")  # it leaves the address
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert f"vbmstat-{PORT}=" in cookie  # two workbenches on two ports
    assert client.get("/api/folder").status_code == 200
    refused(client.get("/?token=wrong"))


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:80", f"127.0.0.1.evil.example:{PORT}", ""]
)
def test_a_name_that_was_bound_to_this_machine_is_refused(client, host):
    assert "its own address" in refused(client.get("/api/folder", headers={"host": host}))


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9", f"https://127.0.0.1:{PORT}"])
def test_a_page_of_another_origin_is_refused_even_with_the_cookie(client, study, origin):
    put = client.put("/api/exclusions/sub-01", json={"reason": "x"}, headers={"origin": origin})
    assert "another origin" in refused(put)
    assert not (study.run / "exclusions.tsv").exists()
    assert client.get("/api/folder", headers={"origin": ADDRESS}).status_code == 200


def test_an_image_in_another_page_is_refused(client):
    for site in ("cross-site", "same-site"):  # same-site: another port of this machine
        assert "another site" in refused(client.get("/api/file/cohort.tsv", headers={"sec-fetch-site": site}))
    assert client.get("/api/folder", headers={"sec-fetch-site": "same-origin"}).status_code == 200
    followed = client.get(f"/?token={TOKEN}", headers={"sec-fetch-site": "cross-site"})
    assert followed.status_code == 303  # a link with the token, in a mail or a notebook


def test_a_gigabyte_is_refused_before_it_is_read(client):
    answer = client.post("/api/designs", content=b"{}", headers={"content-length": str(1 << 30)})
    assert f"{MOST_BYTES:,} bytes" in refused(answer, 413)
    assert refused(client.post("/api/designs", content=b"{}", headers={"content-length": "many"}), 413)


def test_a_gigabyte_in_pieces_is_cut_off(study):
    """A body without a length: the server stops asking for more."""
    app, sent, asked = make_app(study, TOKEN, PORT), [], 0

    async def receive():
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b" " * 65536, "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(b"host", f"127.0.0.1:{PORT}".encode()), (b"cookie", f"vbmstat-{PORT}={TOKEN}".encode())]
    scope = {
        "type": "http", "method": "POST", "path": "/api/designs", "raw_path": b"/api/designs", "query_string": b"",
        "headers": headers, "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", PORT), "root_path": "",
        "client": ("127.0.0.1", 1),
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 413
    assert asked <= MOST_BYTES // 65536 + 1


def test_every_answer_says_what_it_may_load_and_is_for_this_origin_alone(client):
    for path in ("/", "/api/folder", "/api/file/cohort.tsv", "/api/nothing", "/api/file/../x"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


def test_a_report_runs_in_a_sandbox(client, folder):
    (folder / "page.html").write_text("<script>document.title='owned'</script>")
    (folder / "page.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>")
    for name in ("page.html", "page.svg"):
        policy = client.get(f"/api/file/{name}").headers["content-security-policy"]
        assert policy.startswith("sandbox allow-scripts")
        assert "allow-same-origin" not in policy
        assert "default-src 'none'" in policy


def test_tabs_and_servers_that_exclude_at_once_lose_nothing(study, monkeypatch):
    write = storage.write_table

    def slowly(*given):
        time.sleep(0.2)  # the other tab reads the file meanwhile, if it may
        write(*given)

    monkeypatch.setattr(storage, "write_table", slowly)
    app = signed_in(study)
    tabs = [app, Browser(app.app, app.cookies), signed_in(study)]  # the last is of another server
    ids = ("sub-01", "sub-02", "sub-03")
    with ThreadPoolExecutor() as both:
        asked = [
            both.submit(tab.put, f"/api/exclusions/{scan}", json={"reason": "motion"})
            for tab, scan in zip(tabs, ids, strict=True)
        ]
    assert [one.result().status_code for one in asked] == [200, 200, 200]
    assert {row["participant_id"] for row in app.get("/api/exclusions").json()["rows"]} == {*ids}
