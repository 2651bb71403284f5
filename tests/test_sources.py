"""Where ONNX files come from: fixtures, files, light networks, and downloads from a server of this test."""

from __future__ import annotations

import hashlib
import http.server
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from topfive import sources
from topfive.cards import Card, Source, load_cards
from topfive.errors import FetchError
from topfive.sources import light
from topfive.sources.atomic import replacing
from topfive.sources.download import download, downloaded

CONTENT = b"\x08\x08 not really a model" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def card(tmp_path, **source) -> Card:
    return replace(load_cards()["pocket_resnet"], path=tmp_path / "card.toml", source=Source(**source))


@pytest.fixture
def server():
    """Serves /good, /wrong, /short (ends too early), /silent (never), 404 for the rest; counts requests."""
    requests = []
    done = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            name = self.path.rpartition("/")[2]
            if name == "silent.onnx":
                done.wait(60)
                return
            body = {"good.onnx": CONTENT, "wrong.onnx": b"other", "short.onnx": CONTENT[:100]}.get(name)
            self.send_response(404 if body is None else 200)
            self.send_header(
                "Content-Length", str(len(CONTENT) if name == "short.onnx" else len(body or b""))
            )
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.requests = requests
        running.url = f"http://127.0.0.1:{running.server_address[1]}"
        yield running
        done.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("TOPFIVE_DOWNLOAD", raising=False)


def test_bundled_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPFIVE_FIXTURES", str(tmp_path))
    (tmp_path / "x.onnx").write_bytes(CONTENT)
    good = card(tmp_path, kind="bundled", path="x.onnx", sha256=SHA256)
    assert sources.resolve(good, tmp_path / "downloads") == tmp_path / "x.onnx"
    assert not (tmp_path / "downloads").exists()
    (tmp_path / "x.onnx").write_bytes(CONTENT + b"!")
    with pytest.raises(
        FetchError, match=r"x\.onnx is not the file that .*card\.toml was written for"
    ) as caught:
        sources.resolve(good, tmp_path)
    assert SHA256 in str(caught.value)


def test_file_by_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMPLE_DATA", str(tmp_path))
    named = card(tmp_path, kind="file", path="$SAMPLE_DATA/x.onnx")
    with pytest.raises(FetchError, match=r"x\.onnx does not exist .*source\.path"):
        sources.resolve(named, tmp_path)
    (tmp_path / "x.onnx").write_bytes(b"anything: no sha256 on the card")
    assert sources.resolve(named, tmp_path) == tmp_path / "x.onnx"


def test_light_is_written_once_by_many(tmp_path, monkeypatch):
    written = []
    real = light.write
    monkeypatch.setattr(light, "write", lambda *args: (written.append(args), real(*args)))
    named = card(tmp_path, kind="light", architecture="squeezenet", seed=3)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: sources.resolve(named, tmp_path / "new" / "downloads"), range(4)))
    assert len(written) == 1
    assert len(set(paths)) == 1
    assert light.fingerprint("squeezenet", 3)[:16] in paths[0].name


def test_download_must_be_asked_for(server, tmp_path, monkeypatch):
    named = card(tmp_path, kind="url", urls=(f"{server.url}/good.onnx",), sha256=SHA256)
    with pytest.raises(FetchError, match="TOPFIVE_DOWNLOAD=1"):
        sources.resolve(named, tmp_path / "d")
    assert "TOPFIVE_DOWNLOAD=1" in sources.unavailable_reason(named, tmp_path / "d")
    monkeypatch.setenv("TOPFIVE_DOWNLOAD", "1")
    with pytest.raises(FetchError, match="TOPFIVE_DOWNLOAD=1"):
        sources.resolve(named, tmp_path / "d", allow_download=False)
    assert server.requests == []
    assert sources.unavailable_reason(named, tmp_path / "d") == ""
    path = sources.resolve(named, tmp_path / "d")
    assert path.read_bytes() == CONTENT
    monkeypatch.delenv("TOPFIVE_DOWNLOAD")
    assert sources.resolve(named, tmp_path / "d") == path  # kept: no further request, no permission needed
    assert sources.unavailable_reason(named, tmp_path / "d") == ""
    assert len(server.requests) == 1


def test_mirrors_are_tried_in_order(server, tmp_path):
    urls = [f"{server.url}/{name}.onnx" for name in ("absent", "wrong", "short", "good", "never")]
    path = download(urls, SHA256, tmp_path, allow=True)
    assert path.read_bytes() == CONTENT
    assert server.requests == ["/absent.onnx", "/wrong.onnx", "/short.onnx", "/good.onnx"]
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == [path.name]


def test_a_silent_mirror_is_left_for_the_next(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["topfive.sources.download"], "TIMEOUT", 0.2)
    urls = [f"{server.url}/{name}.onnx" for name in ("silent", "good")]
    assert download(urls, SHA256, tmp_path, allow=True).read_bytes() == CONTENT


KILLED = """
import sys
from pathlib import Path
from topfive.sources.download import download
download([sys.argv[1]], sys.argv[2], Path(sys.argv[3]), allow=True)
"""


def test_what_a_killed_download_left_is_removed_by_the_next(server, tmp_path, monkeypatch):
    url = f"{server.url}/silent.onnx"
    path, _ = downloaded([url], SHA256, tmp_path)
    child = subprocess.Popen([sys.executable, "-c", KILLED, url, SHA256, str(tmp_path)])
    while not server.requests:
        assert child.poll() is None
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert [left.name for left in tmp_path.glob(".*.part")] != []
    assert not path.exists()
    other = tmp_path / ".another-file.onnx.0123456789ab.part"
    other.touch()
    monkeypatch.setattr(sys.modules["topfive.sources.download"], "TIMEOUT", 0.2)
    assert download([url, f"{server.url}/good.onnx"], SHA256, tmp_path, allow=True) == path
    assert [left.name for left in tmp_path.glob(".*.part")] == [other.name]


def test_no_mirror_works(server, tmp_path):
    urls = [f"{server.url}/absent.onnx", f"{server.url}/wrong.onnx", "http://127.0.0.1:9/x.onnx"]
    with pytest.raises(FetchError, match="cannot be had from any of its 3 addresses") as caught:
        download(urls, SHA256, tmp_path, allow=True)
    first, second, third = caught.value.details.splitlines()
    assert "404" in first
    assert "hash" in second
    assert third.startswith("http://127.0.0.1:9/x.onnx: ")
    assert not list(tmp_path.glob("*.onnx"))
    assert not list(tmp_path.glob(".*.part"))


def test_damaged_download_is_fetched_again(server, tmp_path):
    urls = [f"{server.url}/good.onnx"]
    path = download(urls, SHA256, tmp_path, allow=True)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(FetchError, match="is damaged"):
        download(urls, SHA256, tmp_path, allow=False)
    assert download(urls, SHA256, tmp_path, allow=True).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_downloads_folder_that_is_a_file(server, tmp_path):
    (tmp_path / "d").touch()
    with pytest.raises(FetchError, match="cannot be written"):
        download([f"{server.url}/good.onnx"], SHA256, tmp_path / "d", allow=True)
    with pytest.raises(FetchError, match="cannot be written"):
        sources.resolve(card(tmp_path, kind="light", architecture="squeezenet"), tmp_path / "d")


def test_missing_file_is_a_reason(tmp_path):
    named = card(tmp_path, kind="file", path="absent.onnx")
    assert sources.unavailable_reason(named, tmp_path) == f"model not found: {tmp_path / 'absent.onnx'}"


def test_replacing_keeps_the_old_file_until_the_end(tmp_path):
    out = tmp_path / "x"
    out.write_text("old")

    def fail() -> None:
        with replacing(out) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert out.read_text() == "old"
    with replacing(out) as temporary:
        temporary.write_text("new")
        assert out.read_text() == "old"
    assert out.read_text() == "new"
