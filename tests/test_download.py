"""Downloads from a server on this machine that breaks off, stalls, forgets Range or sends something else."""

import hashlib
import http.server
import re
import threading
from types import SimpleNamespace

import pytest

from headgate.errors import InputError
from headgate.text import download as module
from headgate.text.download import download, file_sha256

CONTENT = bytes(i * i % 251 for i in range(300_007))  # more than one block of 65,536
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def whole(handler, content=CONTENT):
    """Answer with everything, whatever range was asked for."""
    send(handler, 200, content, len(content))


def ranged(handler, content=CONTENT, sent=None):
    """Answer with the range asked for; of it, only the first ``sent`` bytes where given."""
    start = int(re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", "bytes=0-"))[1])
    if start >= len(content):
        send(handler, 416, b"", 0)
    else:
        send(handler, 206 if start else 200, content[start:][:sent], len(content) - start)


def breaking(sent):
    return lambda handler: ranged(handler, sent=sent)


def breaking_whole(sent):
    return lambda handler: send(handler, 200, CONTENT[:sent], len(CONTENT))


def failing(status):
    return lambda handler: send(handler, status, b"an explanation nobody saves", 27)


def other(handler):
    whole(handler, b"<html>Please log in.</html>")


def stalling(handler):
    handler.server.closing.wait(5)


def chunked_and_broken(handler):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"7\r\n" + CONTENT[:7] + b"\r\n2000\r\nand then no more")


def send(handler, status, content, length):
    handler.send_response(status)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(content)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append(self.headers.get("Range"))
        self.server.present.append(self.server.target.exists())
        self.server.answers.pop(0)(self)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "text.txt"


@pytest.fixture
def serve(target):
    """Starts a server that gives these answers, one a request; it has .address and .seen, the Range of each request."""
    started = []

    def start(*answers):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.address = f"http://127.0.0.1:{server.server_port}/text.txt"
        server.answers, server.seen, server.present, server.target = list(answers), [], [], target
        server.closing = threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        started.append((server, thread))
        return server

    yield start
    for server, thread in started:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
    for server, _ in started:
        assert not any(server.present), "the final name was there before the file was complete"


def fetch(target, *servers, sha256=SHA256, attempts=3, timeout=5.0):
    return download([s.address for s in servers], sha256, target, timeout=timeout, attempts=attempts, pause=0.01)


def part_of(target):
    return target.with_name("text.txt.part")


def assert_complete(target):
    assert target.read_bytes() == CONTENT
    assert [p.name for p in target.parent.iterdir()] == ["text.txt"]


def test_a_file(serve, target):
    server = serve(ranged)
    assert fetch(target, server) == target
    assert_complete(target)
    assert server.seen == [None]


def test_an_empty_file(serve, target):
    nothing = hashlib.sha256(b"").hexdigest()
    fetch(target, serve(lambda handler: whole(handler, b"")), sha256=nothing)
    assert target.read_bytes() == b""


def test_after_a_break_the_rest_is_asked_for(serve, target):
    server = serve(breaking(100_003), breaking(70_001), ranged)
    fetch(target, server)
    assert server.seen == [None, "bytes=100003-", "bytes=170004-"]
    assert_complete(target)


def test_after_a_break_in_chunks_the_rest_is_asked_for(serve, target):
    server = serve(chunked_and_broken, ranged)
    fetch(target, server, attempts=2)
    assert_complete(target)
    assert server.seen[0] is None


def test_a_server_that_ignores_the_range_starts_over(serve, target):
    server = serve(breaking_whole(100_003), whole)
    fetch(target, server)
    assert server.seen == [None, "bytes=100003-"]
    assert_complete(target)


def test_what_a_previous_run_left_is_continued(serve, target):
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:1234])
    server = serve(ranged)
    fetch(target, server)
    assert server.seen == ["bytes=1234-"]
    assert_complete(target)


def test_what_a_previous_run_left_may_be_complete(serve, target):
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    server = serve(ranged)
    fetch(target, server)
    assert server.seen == [f"bytes={len(CONTENT)}-"]  # answered with 416
    assert_complete(target)


def test_what_a_previous_run_left_may_be_too_long(serve, target):
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT + b"?")
    server = serve(ranged, ranged)
    fetch(target, server)
    assert server.seen == [f"bytes={len(CONTENT) + 1}-", None]
    assert_complete(target)


def test_what_a_previous_run_left_may_be_of_another_file(serve, target):
    target.parent.mkdir()
    part_of(target).write_bytes(b"?" * 1234)
    server = serve(ranged, ranged)
    fetch(target, server)
    assert server.seen == ["bytes=1234-", None]
    assert_complete(target)


def test_the_second_address_continues_what_the_first_began(serve, target):
    first, second = serve(breaking(5_000), breaking(6_000)), serve(ranged)
    fetch(target, first, second, attempts=2)
    assert first.seen == [None, "bytes=5000-"]
    assert second.seen == ["bytes=11000-"]
    assert_complete(target)


def test_after_a_wrong_checksum_the_next_address_is_asked(serve, target):
    first, second = serve(other, other, other), serve(ranged)
    fetch(target, first, second)
    assert second.seen == [None]  # nothing of the wrong file is kept
    assert_complete(target)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_what_is_not_there_is_not_asked_for_again(serve, target, status):
    first, second = serve(failing(status), failing(status)), serve(ranged)
    fetch(target, first, second)
    assert len(first.seen) == len(second.seen) == 1
    assert_complete(target)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(serve, target, status):
    server = serve(failing(status), failing(status), ranged)
    fetch(target, server)
    assert server.seen == [None, None, None]
    assert_complete(target)


def test_a_server_that_stalls_is_given_up_after_the_timeout(serve, target):
    server = serve(stalling, ranged, ranged)  # one more, should this machine be slow itself
    fetch(target, server, timeout=0.2)
    assert server.seen[:2] == [None, None]
    assert_complete(target)


def test_a_server_that_stalls_in_the_middle_is_continued(serve, target):
    def stalling_in_the_middle(handler):
        ranged(handler, sent=70_000)
        handler.wfile.flush()
        stalling(handler)

    server = serve(stalling_in_the_middle, ranged, ranged)
    fetch(target, server, timeout=0.2)
    assert server.seen[0] is None
    assert 0 < int(re.fullmatch(r"bytes=(\d+)-", server.seen[1])[1]) <= 70_000
    assert_complete(target)


def test_no_address_works(serve, target):
    missing, wrong, stalled, broken = (
        serve(failing(404)),
        serve(other, other),
        serve(stalling, stalling),
        serve(breaking_whole(11), breaking_whole(11)),
    )
    with pytest.raises(InputError) as caught:
        fetch(target, missing, wrong, stalled, broken, attempts=2, timeout=0.4)
    assert str(caught.value) == (
        f"could not download text.txt ({missing.address}: Not Found; "
        f"{wrong.address}: its content has another checksum; "
        f"{stalled.address}: timed out; "
        f"{broken.address}: the connection broke after 11 of {len(CONTENT)} bytes): "
        "put the file into a directory and name that with --data-dir or HEADGATE_DATA"
    )
    assert not target.exists()
    assert part_of(target).read_bytes() == CONTENT[:11]  # the next try goes on from here


def test_nobody_listens(serve, target):
    server = serve()
    address = server.address
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match=rf"\({re.escape(address)}: .*refused\): put the file into a directory"):
        download([address], SHA256, target, timeout=0.5, attempts=2, pause=0.01)


def test_pauses_double(serve, target, monkeypatch):
    pauses = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=pauses.append))
    first, second = serve(*[failing(500)] * 4), serve(*[failing(500)] * 2, ranged)
    download([first.address, second.address], SHA256, target, timeout=5, attempts=4, pause=0.5)
    assert pauses == [0.5, 1.0, 2.0, 0.5, 1.0]


def test_file_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert file_sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
