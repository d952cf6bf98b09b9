"""Downloads from a real HTTP server on this machine.

Sources are asked in order, the content is verified, each failure is reported, and no partial file is kept.
"""

import base64
import gzip
import hashlib
import http.server
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.data import download
from pipeline.data.download import Pinned, SourceError, fetch, verified
from pipeline.errors import UserError

CONTENT = bytes(range(256)) * 40
ARCHIVE = gzip.compress(CONTENT)
FILE = Pinned("numbers", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "content")

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


def whole(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(ARCHIVE)))
    handler.end_headers()
    handler.wfile.write(ARCHIVE)


def body(data: bytes, coding: str | None = None) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if coding:
            handler.send_header("Content-Encoding", coding)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def closes_midway(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(ARCHIVE)))
    handler.end_headers()
    handler.wfile.write(ARCHIVE[:30])


def status(code: int) -> Answer:
    return lambda handler: handler.send_error(code)


def redirects_forever(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", handler.path)
    handler.end_headers()


def never_ends(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(10_000):
            handler.wfile.write(b"\x1f\x8b" + bytes(65_000))
    except ConnectionError:
        pass


class Server:
    """A mirror whose answer a test sets. It records the requests."""

    def __init__(self) -> None:
        self.answer: Answer = whole
        self.requests: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                outer.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Print nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/data"


@pytest.fixture
def server() -> Iterator[Server]:
    mirror = Server()
    thread = threading.Thread(target=mirror.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield mirror
    mirror.server.shutdown()
    thread.join()
    mirror.server.server_close()


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_download_is_verified_and_kept(server: Server, repository: Path) -> None:
    assert fetch("set", [FILE], [server.url]) == [CONTENT]
    assert server.requests == ["/data/numbers.gz"]
    assert [p.relative_to(repository).as_posix() for p in repository.rglob("*.gz")] == ["downloads/set/numbers.gz"]
    server.answer = status(404)
    assert fetch("set", [FILE], [server.url]) == [CONTENT]  # from the folder, without a request
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (status(404), "404 Client Error"),
        (status(503), "503"),
        (body(b"<!DOCTYPE html><title>Sorry</title>"), "not a gzip file"),
        (body(b""), "not a gzip file"),
        (body(ARCHIVE[:-20]), "truncated"),
        (closes_midway, "30 of|30 bytes read"),
        (body(ARCHIVE[:60] + bytes([ARCHIVE[60] ^ 255]) + ARCHIVE[61:]), "damaged|not the published content"),
        (body(gzip.compress(CONTENT[::-1])), "not the published content: SHA-256"),
        (body(gzip.compress(CONTENT[:-1])), "truncated: 10239 of 10240"),
        (body(gzip.compress(bytes(10_000_000))), "holds more than the 10240 bytes"),
        (never_ends, "larger than the 14336 bytes"),
        (redirects_forever, "redirect"),
        (body(gzip.compress(ARCHIVE)[:-20], "gzip"), "truncated"),
        (body(b"<!DOCTYPE html>", "gzip"), "damaged"),
        (body(gzip.compress(ARCHIVE[:3] + bytes(10_000_000)), "gzip"), "holds more than the 14336 bytes"),
        (body(ARCHIVE, "br"), "sent with the content coding br, although none was asked for"),
    ],
)
def test_a_failure_is_reported_and_the_next_source_is_asked(
    server: Server, repository: Path, capsys: pytest.CaptureFixture[str], answer: Answer, message: str
) -> None:
    server.answer = answer
    with pytest.raises(UserError, match=message) as caught:
        fetch("set", [FILE], [server.url])
    for remedy in ("DATA_MIRROR", str(repository / "downloads" / "set"), "make demo"):
        assert remedy in str(caught.value)
    assert not list(repository.rglob("*numbers*"))

    second = repository / "elsewhere"
    second.mkdir()
    (second / "numbers.gz").write_bytes(ARCHIVE)
    assert fetch("set", [FILE], [server.url, str(second)]) == [CONTENT]
    assert "numbers.gz" in capsys.readouterr().err


def test_a_mirror_that_stalls_is_abandoned(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "READ_TIMEOUT", 0.3)
    released = threading.Event()
    server.answer = lambda handler: (released.wait(10), None)[1]
    start = time.monotonic()
    try:
        with pytest.raises(UserError, match=r"timed out"):
            fetch("set", [FILE], [server.url])
    finally:
        released.set()
    assert time.monotonic() - start < 5


def test_a_mirror_that_is_too_slow_is_abandoned(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "START", 0.3)

    def drips(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for byte in ARCHIVE:
                handler.wfile.write(bytes([byte]))
                time.sleep(0.05)
        except ConnectionError:
            pass

    server.answer = drips
    start = time.monotonic()
    with pytest.raises(UserError, match=r"too slow: \d+ bytes in"):
        fetch("set", [FILE], [server.url])
    assert time.monotonic() - start < 3


def test_an_unreachable_source_is_asked_once_for_all_files(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = repository / "good"
    good.mkdir()
    (good / "numbers.gz").write_bytes(ARCHIVE)
    (good / "again.gz").write_bytes(ARCHIVE)
    again = Pinned("again", FILE.size, FILE.sha256, "content")
    assert fetch("set", [FILE, again], ["http://127.0.0.1:9/refused", str(good)]) == [CONTENT, CONTENT]
    assert capsys.readouterr().err.count("refused") <= 2  # one line, whose URL contains the word too


@pytest.mark.parametrize(
    ("sent", "coding"),
    [
        (gzip.compress(ARCHIVE), "gzip"),
        (gzip.compress(ARCHIVE), "X-GZip"),
        (zlib.compress(ARCHIVE), "deflate"),
        (zlib.compress(gzip.compress(ARCHIVE)), "gzip, identity, deflate"),
        # The server takes the compression of the file itself for a coding.
        (ARCHIVE, "gzip"),
        (ARCHIVE, "identity"),
    ],
)
def test_what_http_encoded_is_decoded(server: Server, repository: Path, sent: bytes, coding: str) -> None:
    server.answer = body(sent, coding)
    assert fetch("set", [FILE], [server.url]) == [CONTENT]
    assert (repository / "downloads" / "set" / "numbers.gz").read_bytes() == ARCHIVE


def test_no_content_coding_is_asked_for(server: Server) -> None:
    def negotiates(handler: http.server.BaseHTTPRequestHandler) -> None:
        accepted = handler.headers["Accept-Encoding"]
        (whole if accepted == "identity" else status(406))(handler)

    server.answer = negotiates
    assert fetch("set", [FILE], [server.url]) == [CONTENT]


@pytest.mark.parametrize(
    "user",
    ["user:secret", "user:sec%40ret", "user:se@secret", "user:secret/x", "secret", "user:#secret", "user:secret?x"],
)
def test_user_information_is_sent_and_never_shown(
    server: Server, repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    server.answer = status(401)
    address = server.url.replace("://", f"://{user}@")
    monkeypatch.setenv("DATA_MIRROR", address)
    with pytest.raises(UserError) as caught:
        fetch("set", [FILE], [address.replace("127.0.0.1", "127.0.0.2"), address.replace("http", "ftp")])
    shown = str(caught.value) + capsys.readouterr().err
    assert "secret" not in shown
    assert "sec%40ret" not in shown
    assert f"{server.url.replace('://', '://***@')}: " in shown


def test_user_information_opens_a_mirror(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def guarded(handler: http.server.BaseHTTPRequestHandler) -> None:
        expected = f"Basic {base64.b64encode(b'user:s@cret').decode()}"
        (whole if handler.headers["Authorization"] == expected else status(401))(handler)

    server.answer = guarded
    monkeypatch.setenv("DATA_MIRROR", server.url.replace("http://", "HTTP://user:s%40cret@"))
    assert fetch("set", [FILE], []) == [CONTENT]


@pytest.mark.parametrize("mirror", ["~nobody-of-this-name", "x" * 300, "file.txt"])
def test_a_data_mirror_that_is_no_folder_is_reported_and_the_next_source_is_asked(
    server: Server, repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    (repository / "file.txt").touch()
    monkeypatch.setenv("DATA_MIRROR", mirror)
    assert fetch("set", [FILE], [server.url]) == [CONTENT]
    assert capsys.readouterr().err.startswith(f"{mirror}: numbers.gz: ")


def test_data_mirror_comes_first(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_MIRROR", server.url)
    assert fetch("set", [FILE], ["http://127.0.0.1:9"]) == [CONTENT]


def test_data_mirror_may_be_a_folder_relative_to_the_main_repository(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "mirror").mkdir()
    (repository / "mirror" / "numbers.gz").write_bytes(ARCHIVE)
    workspace = repository / ".dvc/tmp/exps/standalone/tmp1"  # of a temporary experiment
    for folder in (repository, workspace):
        (folder / ".git").mkdir(parents=True)
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("DATA_MIRROR", "mirror")
    assert fetch("set", [FILE], []) == [CONTENT]
    assert not (repository / "downloads").exists()  # a local file is not copied


def test_files_that_a_user_put_into_the_folder_are_used(repository: Path) -> None:
    folder = repository / "downloads" / "set"
    folder.mkdir(parents=True)
    (folder / "numbers.gz").write_bytes(gzip.compress(CONTENT, 1))  # the same content, compressed differently
    assert fetch("set", [FILE], []) == [CONTENT]


def test_every_source_is_listed_with_its_reason(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_MIRROR", "nowhere")
    with pytest.raises(UserError) as caught:
        fetch("set", [FILE], ["http://127.0.0.1:9/a", "http://127.0.0.1:9/b"])
    lines = str(caught.value).splitlines()
    assert [line for line in lines if line.startswith("  nowhere: no such folder")]
    for url in ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b"):
        assert [line for line in lines if line.startswith(f"  {url}: ") and "refused" in line]


def test_an_archive_digest_is_that_of_the_archive() -> None:
    pinned = Pinned("numbers", FILE.size, hashlib.sha256(ARCHIVE).hexdigest(), "archive")
    assert verified(pinned, ARCHIVE) == CONTENT
    with pytest.raises(SourceError, match="not the published archive"):
        verified(pinned, gzip.compress(CONTENT, 1))
