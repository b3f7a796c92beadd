"""Named corpora: where they are looked for, what is downloaded, and what is refused."""

import errno
import hashlib
import http.server
import threading
import time
from typing import Any

import pytest

from headgate.errors import InputError
from headgate.settings.run import TextSettings
from headgate.text import catalogue
from headgate.text.catalogue import NAMED, NamedCorpus, locate
from headgate.text.sources import passages


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Hide the user's cache and settings from the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HEADGATE_DATA", raising=False)


def read(chosen: TextSettings, **options: Any) -> str:
    return "".join(passage.text for passage in passages(chosen, **options))


@pytest.fixture
def named(monkeypatch):
    """A function that adds to NAMED a corpus 'rhyme', whose file is rhyme.txt with the content ``rhyme``."""

    def add(*addresses: str) -> NamedCorpus:
        corpus = NamedCorpus(
            "rhyme", "a rhyme", "rhyme.txt", hashlib.sha256(b"rhyme").hexdigest(), addresses or ("http://127.0.0.1:9",)
        )
        monkeypatch.setitem(NAMED, "rhyme", corpus)
        return corpus

    return add


def put(folder, content=b"rhyme"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rhyme.txt").write_bytes(content)
    return folder / "rhyme.txt"


def test_named_texts_are_looked_for_in_the_data_directory_then_in_the_cache(tmp_path, monkeypatch, named):
    rhyme = named()
    assert locate(rhyme) is None
    cached = put(tmp_path / "cache" / "headgate")
    assert locate(rhyme) == cached
    there = put(tmp_path / "there")
    monkeypatch.setenv("HEADGATE_DATA", str(tmp_path / "there"))
    assert locate(rhyme) == there
    given = put(tmp_path / "given")
    assert locate(rhyme, data_dir=tmp_path / "given") == given
    assert locate(rhyme, data_dir=tmp_path / "elsewhere") == cached
    assert read(TextSettings("rhyme"), data_dir=tmp_path / "given") == "rhyme"


def test_the_cache_is_in_the_home_directory_by_default(tmp_path, monkeypatch, named):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert locate(named()) is None
    cached = put(tmp_path / "home" / ".cache" / "headgate")
    assert locate(named()) == cached


def test_another_text_with_the_same_file_name_is_refused(tmp_path, named):
    named()
    path = put(tmp_path / "given", b"prose")
    with pytest.raises(
        InputError,
        match=rf"^{path} is not the rhyme corpus \(its SHA-256 is {hashlib.sha256(b'prose').hexdigest()}, that of the "
        rf"corpus is {hashlib.sha256(b'rhyme').hexdigest()}\): replace or remove the file$",
    ):
        read(TextSettings("rhyme"), data_dir=tmp_path / "given")


@pytest.mark.parametrize("by", ["--data-dir", "HEADGATE_DATA"])
def test_a_missing_data_directory_is_named(tmp_path, monkeypatch, named, by):
    """Even if the text is in the cache, because the user meant another place."""
    named()
    put(tmp_path / "cache" / "headgate")
    monkeypatch.setenv("HEADGATE_DATA", str(tmp_path / "env"))
    given = tmp_path / ("given" if by == "--data-dir" else "env")
    (tmp_path / "env" if by == "--data-dir" else tmp_path / "given").mkdir()
    with pytest.raises(
        InputError,
        match=rf"^{given} is not a directory, but {by} says that rhyme\.txt is in it: correct {by}, or omit it",
    ):
        read(TextSettings("rhyme"), data_dir=given if by == "--data-dir" else None)
    assert read(TextSettings("voyage"), data_dir=tmp_path / "given")  # bundled with the package


def test_a_data_directory_without_the_text_is_named(tmp_path, named):
    named("http://127.0.0.1:9/rhyme.txt")
    (tmp_path / "given").mkdir()
    with pytest.raises(InputError, match=rf"^{tmp_path}/given has no rhyme\.txt, could not download rhyme\.txt \(http"):
        read(TextSettings("rhyme"), data_dir=tmp_path / "given")


def test_a_named_text_without_read_permission(tmp_path, monkeypatch, named):
    named()
    path = put(tmp_path / "given")

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(catalogue, "file_sha256", refuse)
    with pytest.raises(InputError, match=rf"^{path} cannot be read \(Permission denied\): check the path and its perm"):
        read(TextSettings("rhyme"), data_dir=tmp_path / "given")


class Server(http.server.BaseHTTPRequestHandler):
    """A server whose ``answers`` give, for each path, a status and a body, or a function of the handler."""

    answers: dict[str, Any]

    def do_GET(self) -> None:
        answer = self.answers.get(self.path, (404, b"not here"))
        if callable(answer):
            answer(self)
            return
        status, body = answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served():
    """The answers of a server by path, and its address."""
    handler = type("Handler", (Server,), {"answers": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield handler.answers, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def breaks_off(handler: Server) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5")
    handler.end_headers()
    handler.wfile.write(b"rhy")


def breaks_off_in_chunks(handler: Server) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"3\r\nrhy\r\n2000\r\nand then no more")


def stalls(handler: Server) -> None:
    time.sleep(1)


def redirects(handler: Server) -> None:
    handler.send_response(302)
    handler.send_header("Location", "/moved.txt")
    handler.end_headers()


def test_a_named_text_is_downloaded_once_into_the_cache(tmp_path, named, served):
    answers, address = served
    rhyme = named(f"{address}/rhyme.txt")
    answers |= {"/rhyme.txt": redirects, "/moved.txt": (200, b"rhyme")}
    assert read(TextSettings("rhyme")) == "rhyme"
    assert locate(rhyme) == tmp_path / "cache" / "headgate" / "rhyme.txt"
    answers.clear()
    assert read(TextSettings("rhyme")) == "rhyme"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((404, b""), "Not Found"),
        ((503, b""), "Service Unavailable"),
        ((200, b"<html>Please log in.</html>"), "its content has another checksum"),
        ((200, b""), "its content has another checksum"),
        (breaks_off, "IncompleteRead"),
        (breaks_off_in_chunks, "IncompleteRead"),
        (stalls, "timed out"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_the_next_address_is_tried_if_one_fails(tmp_path, monkeypatch, named, served, answer, reason):
    monkeypatch.setattr(catalogue, "TIMEOUT", 0.2)
    answers, address = served
    named(f"{address}/first.txt", f"{address}/second.txt")
    answers["/first.txt"] = answers["/second.txt"] = answer
    with pytest.raises(InputError) as error:
        read(TextSettings("rhyme"))
    assert str(error.value).startswith(f"could not download rhyme.txt ({address}/first.txt: ")
    assert str(error.value).count(reason) == 2
    assert str(error.value).endswith(
        "put the file into a directory and name the directory with --data-dir or HEADGATE_DATA"
    )
    assert not (tmp_path / "cache").exists()
    answers["/second.txt"] = (200, b"rhyme")
    assert read(TextSettings("rhyme")) == "rhyme"


def test_downloaded_texts_have_a_checksum_and_two_addresses():
    for corpus in NAMED.values():
        assert bool(corpus.sha256) == bool(corpus.addresses)
        if corpus.addresses:
            assert len(corpus.sha256) == 64
            assert len(set(corpus.addresses)) >= 2
            assert all(address.endswith("/" + corpus.file) for address in corpus.addresses)


def test_the_textbooks_files_are_found_through_the_environment(data_dir, monkeypatch):
    monkeypatch.setenv("HEADGATE_DATA", str(data_dir))
    assert {locate(NAMED[name]).parent for name in ("time-machine", "jay-lyrics")} == {data_dir}
