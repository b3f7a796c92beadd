"""Texts from every kind of source, normalized and cut into passages; errors for what cannot be read."""

import bz2
import errno
import gzip
import io
import lzma
import os
import re
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError
from headgate.settings.run import TextSettings
from headgate.text import sources
from headgate.text.catalogue import NAMED, locate
from headgate.text.sources import SUFFIXES, normalize, passages
from tests.helpers.texts import read, tarred, text_of, zipped

quick = settings(deadline=None, max_examples=60)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Hide the user's cache and settings from the tests; paths are relative to ``tmp_path``."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HEADGATE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


# Sources


def test_a_file(tmp_path):
    (tmp_path / "any.name").write_bytes("分开\nab".encode())
    assert text_of(tmp_path / "any.name") == "分开\nab"


def test_line_ends_and_the_byte_order_mark_are_normalized(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\nfour\r\n\r\n")
    assert text_of(tmp_path / "a.txt") == "one\ntwo\nthree\nfour\n\n"


def test_only_a_leading_byte_order_mark_is_removed(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffa\ufeffb", "utf-8")
    assert text_of(tmp_path / "a.txt") == "a\ufeffb"


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "latin-1", "GB18030"])
def test_other_encodings(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("\xe4b\r\nc".encode(encoding))
    assert text_of(tmp_path / "a.txt", encoding=encoding) == "\xe4b\nc"


def test_gz(tmp_path):
    (tmp_path / "a.TXT.GZ").write_bytes(gzip.compress("分\r\n开".encode()))
    assert text_of(tmp_path / "a.TXT.GZ") == "分\n开"


def test_zip_in_the_order_of_names(tmp_path):
    files = {"b/z.txt": b"last\n", "a.txt": "分".encode(), "b/": b"", "b/y.txt": b"", "__MACOSX/a.txt": b"\xff"}
    (tmp_path / "a.zip").write_bytes(zipped(files))
    assert text_of(tmp_path / "a.zip") == "分\n\nlast\n"


def test_a_directory_in_the_order_of_paths(tmp_path):
    folder = tmp_path / "texts"
    for name, content in {
        "b.txt": b"3\n",
        "a/z.md": b"2",
        "a/b/y.TEXT": b"1",
        "c.txt.gz": gzip.compress(b"4"),
        "d.zip": zipped({"2.txt": b"6", "1.txt": b"5\r\n"}),
        "ignored.py": b"\xff",
        "a/ignored": b"\xff",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "e.txt").mkdir()
    with pytest.warns(UserWarning, match=rf"^{folder}: 5 texts read, 2 files left out \(ignored(\.py)?, "):
        assert text_of(folder) == "1\n2\n3\n4\n5\n6"  # each begins on a new line


def test_a_directory_without_texts(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(
        InputError,
        match=rf"^the directory {tmp_path}/empty holds no text: "
        rf"only files ending in {re.escape(', '.join(SUFFIXES))} are read$",
    ):
        text_of(tmp_path / "empty")


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("分\r\n开".encode())))
    assert text_of("-") == "分\n开"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"ab\xff")))
    with pytest.raises(InputError, match=r"^standard input is not utf-8: byte 0xff at offset 2; "):
        text_of("-")


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("voyge", r"did you mean voyage\?"),
        ("time_machine", r"did you mean time-machine\?"),
        ("dir/none.txt", "known: jay-lyrics, time-machine, verses, voyage"),
    ],
)
def test_a_missing_source_suggests_the_nearest_names(source, hint):
    with pytest.raises(
        InputError,
        match=rf"^there is no file or corpus {source}: give the path of a text, or a name \({hint}\)$",
    ):
        text_of(source)


def test_a_corpus_name_takes_precedence_over_a_file(tmp_path):
    (tmp_path / "voyage").write_text("not this")
    assert "not this" not in text_of("voyage")
    assert text_of("./voyage") == "not this"


# Errors


@pytest.mark.parametrize(
    ("raw", "encoding", "what"),
    [
        (b"abc\xff", "utf-8", "byte 0xff at offset 3"),
        ("分".encode() + b"\xe5\x88", "utf-8", "byte 0xe5 at offset 3"),
        (b"\xe4", "ascii", "byte 0xe4 at offset 0"),
        (b"ab\xff", "gb18030", "byte 0xff at offset 2"),
        (b"\xff\xfea\0b", "utf-16", "byte 0x62 at offset 4"),
        (b"\xef\xbb\xbfab\xff", "utf-8-sig", "byte 0xff at offset 5"),
    ],
)
def test_invalid_bytes_are_reported_with_their_offset(tmp_path, raw, encoding, what):
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(
        InputError,
        match=f"^{tmp_path}/a.txt is not {encoding}: {what}; "
        "name its encoding with --encoding, or use --tokenizer bytes$",
    ):
        text_of(tmp_path / "a.txt", encoding=encoding)


def test_the_member_of_an_archive_is_named(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"ok.txt": b"ok", "x/bad.txt": b"\n\xfe"}))
    with pytest.raises(InputError, match=rf"^{tmp_path}/a\.zip:x/bad\.txt is not utf-8: byte 0xfe at offset 1; "):
        text_of(tmp_path / "a.zip")


def test_the_bytes_tokenizer_is_not_suggested_if_it_is_used(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"ab\xff")
    with pytest.raises(InputError, match="is not ascii: byte 0xff at offset 2; ") as caught:
        text_of(tmp_path / "a.txt", encoding="ascii", tokenizer="bytes")
    assert not str(caught.value).endswith("or use --tokenizer bytes")


@pytest.mark.parametrize("encoding", ["klingon", "", "hex", "undefined", "a\0b"])
def test_an_unknown_encoding(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes(b"abc")
    with pytest.raises(
        InputError,
        match=f"^unknown encoding {re.escape(repr(encoding))}: name one that Python knows, for instance gb18030$",
    ):
        text_of(tmp_path / "a.txt", encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("order", ["le", "be"])
def test_a_byte_order_mark_determines_the_encoding(tmp_path, encoding, order):
    (tmp_path / "a.txt").write_bytes("\ufeffé分\r\nb".encode(f"{encoding}-{order}"))
    assert text_of(tmp_path / "a.txt") == "é分\nb"
    assert text_of(tmp_path / "a.txt", encoding=encoding) == "é分\nb"
    assert text_of(tmp_path / "a.txt", tokenizer="bytes") != "é分\nb"
    (tmp_path / "a.txt").write_bytes("\ufeffa".encode(f"{encoding}-{order}") + b"a")
    with pytest.raises(InputError, match=f"a.txt is not {encoding}: byte 0x61 at offset"):
        text_of(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            "some text".encode("utf-16-le"),
            r"\(50% of its first bytes are zero\): it looks like UTF-16, so use --encoding utf-16-le",
        ),
        (
            "some text".encode("utf-16-be"),
            r"\(50% of its first bytes are zero\): it looks like UTF-16, so use --encoding utf-16-be",
        ),
        (bytes(99), r"\(100% of its first bytes are zero\): to read it anyway, use --tokenizer bytes"),
    ],
    ids=["little", "big", "zeros"],
)  # fmt: skip
def test_many_zeros_are_refused(tmp_path, raw, message):
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(InputError, match=f"a.txt is not UTF-8 text {message}$"):
        text_of(tmp_path / "a.txt")
    assert text_of(tmp_path / "a.txt", tokenizer="bytes") == raw.decode()


def test_a_few_zeros_are_characters(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"some\0text\0")
    assert text_of(tmp_path / "a.txt") == "some\0text\0"


@pytest.mark.parametrize("encoding", ["utf-7", "unicode_escape"])
def test_half_a_surrogate_pair_is_refused(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes(b"a+2AA-b" if encoding == "utf-7" else rb"a\ud800b")
    with pytest.raises(
        InputError,
        match=rf"^{tmp_path}/a\.txt contains half a surrogate pair, U\+D800, .* as {encoding}: name its encoding ",
    ):
        text_of(tmp_path / "a.txt", encoding=encoding)


def broken_gz() -> bytes:
    whole = bytearray(gzip.compress(b"some text\n" * 50))
    whole[10] = 0x07  # a block of a type that does not exist
    return bytes(whole)


def zip_with_a_broken_name() -> bytes:
    return zipped({"分.txt": b"text"}).replace("分".encode(), b"\xff\xfe\xfd")


def broken_zip(compression: int) -> bytes:
    whole = bytearray(zipped({"a.txt": bytes(range(97, 123)) * 40}, compression))
    whole[40:60] = bytes(20)
    return bytes(whole)


def locked_zip() -> bytes:
    """Make a zip archive whose member is marked as encrypted."""
    whole = bytearray(zipped({"a.txt": b"text"}))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(signature) + flags] |= 1
    return bytes(whole)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("a.gz", b"no gzip at all"),
        ("a.gz", gzip.compress(b"some text\n" * 50)[:-9]),
        ("a.gz", broken_gz()),
        ("a.zip", b"no archive at all"),
        ("a.zip", zipped({"a.txt": b"text"})[:-9]),
        ("a.zip", broken_zip(zipfile.ZIP_STORED)),
        ("a.zip", broken_zip(zipfile.ZIP_DEFLATED)),
        ("a.zip", broken_zip(zipfile.ZIP_BZIP2)),
        ("a.zip", broken_zip(zipfile.ZIP_LZMA)),
        ("a.zip", zip_with_a_broken_name()),
        ("a.zip", locked_zip()),
    ],
    ids=[
        "no-gz", "short-gz", "broken-gz", "no-zip", "short-zip", "stored", "deflated", "bzip2", "lzma", "name", "locked"
    ],
)  # fmt: skip
def test_an_archive_that_cannot_be_unpacked(tmp_path, name, raw):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(
        InputError, match=rf"^{tmp_path}/{name} cannot be unpacked \(.+\): unpack it yourself, or replace it$"
    ):
        text_of(tmp_path / name)


def packed(name: str) -> bytes:
    """Make an archive or a packed file with a short text in it."""
    two = {"a.txt": b"some", "é.txt": b"text"}
    return {
        "a.gz": lambda: gzip.compress(b"some text"),
        "a.bz2": lambda: bz2.compress(b"some text"),
        "a.xz": lambda: lzma.compress(b"some text"),
        "a.zip": lambda: zipped(two),
        "a.tar": lambda: tarred(two),
        "a.tar.gz": lambda: gzip.compress(tarred(two)),
        "a.txz": lambda: lzma.compress(tarred(two)),
    }[name]()


@pytest.mark.filterwarnings("ignore:.* left out")
@settings(deadline=None, max_examples=300)
@given(data=st.data(), name=st.sampled_from(["a.gz", "a.bz2", "a.xz", "a.zip", "a.tar", "a.tar.gz", "a.txz"]))
def test_a_damaged_archive_is_a_text_or_an_input_error(data, name, tmp_path_factory):
    whole = bytearray(packed(name))
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=3)):
        whole[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / name
    path.write_bytes(whole[: data.draw(st.just(len(whole)) | st.integers(0, len(whole)))])
    message = ""
    try:
        text_of(path)
    except InputError as error:
        message = str(error)
    assert not message or (str(path) in message and "\n" not in message)


def test_a_file_without_read_permission(tmp_path, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "a.txt").write_text("text")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        InputError,
        match=rf"^{tmp_path}/a\.txt cannot be read \(Permission denied\): check the path and its permissions$",
    ):
        text_of(tmp_path / "a.txt")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(path):
    """One of them is endless."""
    with pytest.raises(
        InputError, match=f"^{path} is a device, not a text: give a file, or '-' and pipe the text into it"
    ):
        text_of(path)


def test_a_named_pipe_is_refused(tmp_path):
    """Opening it would wait for a writer."""
    (tmp_path / "texts").mkdir()
    os.mkfifo(tmp_path / "texts" / "a.txt")
    for path in (tmp_path / "texts", tmp_path / "texts" / "a.txt"):
        with pytest.raises(InputError, match=f"^{tmp_path}/texts/a.txt is a named pipe, not a text: "):
            text_of(path)


def test_a_pipe_of_a_shell_is_read(tmp_path):
    """As in headgate train <(command)."""
    receive, send = os.pipe()
    os.write(send, "分\r\n开".encode())
    os.close(send)
    assert text_of(f"/dev/fd/{receive}") == "分\n开"
    os.close(receive)


def test_standard_input_that_is_a_device_or_closed(monkeypatch):
    with open("/dev/zero") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(InputError, match=r"^standard input is a device, not a text: pipe a text into it"):
            text_of("-")
    for closed in (stream, None):
        monkeypatch.setattr(sys, "stdin", closed)
        with pytest.raises(
            InputError, match=r"^standard input is closed: pipe a text into it, or give the path of a text$"
        ):
            text_of("-")
    with open(os.devnull) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert text_of("-") == ""


def test_a_broken_link_in_a_directory_is_named(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    for target, message in (
        ("nowhere", "is a broken link: repair"),
        ("b.txt", r"cannot be read \(Too many"),
    ):
        (tmp_path / "texts" / "b.txt").symlink_to(target)
        with pytest.raises(InputError, match=f"^{tmp_path}/texts/b.txt {message}"):
            text_of(tmp_path / "texts")
        (tmp_path / "texts" / "b.txt").unlink()


def test_links_to_directories_are_not_followed(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    (tmp_path / "texts" / "round").symlink_to("..")
    with pytest.warns(UserWarning, match=r"1 text read, 1 file left out \(round\)"):
        assert text_of(tmp_path / "texts") == "text"


def test_hidden_files_of_a_directory_are_not_read(tmp_path):
    for name in ("a.txt", ".b.txt", ".git/c.txt", "__MACOSX/d.txt", "e/._f.txt"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_text(name)
    assert text_of(tmp_path / "x") == "a.txt"
    (tmp_path / "x").rename(tmp_path / ".hidden")
    assert text_of(tmp_path / ".hidden") == "a.txt"


def test_a_file_or_directory_without_read_permission_is_named(tmp_path, monkeypatch):
    (tmp_path / "texts" / "closed").mkdir(parents=True)
    (tmp_path / "texts" / "a.txt").write_text("text")
    (tmp_path / "texts" / "b.txt").write_text("text")
    scandir, opened = os.scandir, Path.open

    def refuse(path, *arguments):
        if str(path).endswith(("closed", "b.txt")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments) if arguments else scandir(path)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=rf"^{tmp_path}/texts/b\.txt cannot be read \(Permission denied\): "):
        text_of(tmp_path / "texts")
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        InputError, match=rf"^{tmp_path}/texts/closed cannot be read \(Permission denied\): check its permissions$"
    ):
        text_of(tmp_path / "texts")


def test_a_text_given_instead_of_its_path():
    with pytest.raises(
        InputError,
        match=r"^'word\\nword\\n.{50,70}\.\.\.' cannot be read \(File name too long\): give the path",
    ):
        text_of("word\n" * 1000)
    with pytest.raises(
        InputError, match=r"^the name of the corpus is empty: give the path of a text, or a name \(voyage, "
    ):
        text_of("")


# Memory


def test_a_text_larger_than_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    with (tmp_path / "a b.txt").open("wb") as file:
        file.truncate(1 << 40)  # sparse: it occupies no space
    monkeypatch.setattr(sources, "free_memory", lambda: 1 << 33)
    monkeypatch.setattr(sources, "passages", None)
    with pytest.raises(
        InputError,
        match=rf"^{tmp_path}/a b\.txt is too large for the memory \(8\.6 GB are free\): tokenize it with 'headgate "
        rf"prepare '{tmp_path}/a b\.txt' --out DIR' and train on DIR, or use a part of it with --limit$",
    ):
        sources.whole(TextSettings(corpus=f"{tmp_path}/a b.txt"))


def test_memory_that_runs_out_while_a_text_is_read(tmp_path, monkeypatch):
    """The size of a packed text is not known before; enough memory must remain to make the ids."""
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"word " * 200_000))
    monkeypatch.setattr(sources, "PASSAGE", 1_000)
    read, original = [], sources.passages

    def small(settings, **options):
        for passage in original(settings, size=1_000, **options):
            read.append(passage)
            yield passage

    monkeypatch.setattr(sources, "passages", small)
    monkeypatch.setattr(sources, "free_memory", lambda: 3_000_000)
    with pytest.raises(InputError, match=r"^.*a\.gz is too large for the memory"):
        sources.whole(TextSettings(corpus=f"{tmp_path}/a.gz"))
    assert 375 <= len(read) < 375 + 64
    assert (
        sum(len(p.text) for p in sources.whole(TextSettings(corpus=f"{tmp_path}/a.gz", tokenizer="words"))) == 1_000_000
    )
    assert len(sources.whole(TextSettings(corpus=f"{tmp_path}/a.gz", limit=300_000))) <= 301


def test_standard_input_too_large_for_memory(monkeypatch):
    def exhausted(*_, **__):
        raise MemoryError
        yield

    monkeypatch.setattr(sources, "passages", exhausted)
    monkeypatch.setattr(sources, "free_memory", lambda: None)
    with pytest.raises(
        InputError,
        match=r"^standard input is too large for the memory: write it to a file, tokenize the file with 'headgate "
        r"prepare FILE --out DIR' and train on DIR, or use a part of it with --limit$",
    ):
        sources.whole(TextSettings(corpus="-"))


def test_a_link_to_itself_is_reported_as_missing(tmp_path):
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    with pytest.raises(InputError, match=r"^there is no file or corpus .*loop\.txt: "):
        text_of(tmp_path / "loop.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "utf8", "utf_8"])
def test_bytes_are_preserved_for_every_name_of_utf_8(tmp_path, encoding):
    (tmp_path / "a.bin").write_bytes(b"a\r\n\xff")
    assert text_of(tmp_path / "a.bin", tokenizer="bytes", encoding=encoding) == "a\r\n\udcff"


# Normalization and passages


def test_normalize():
    text = "The Time  Machine,\nby H. G. Wells [1898]\n\n\tI\n"
    assert normalize(text, "keep") == text
    assert normalize(text, "spaces") == "The Time  Machine, by H. G. Wells [1898]  \tI "
    assert normalize(text, "letters") == "the time machineby h g wellsi"
    assert normalize("1898\n\xc9t\xe9", "letters") == "t"


def test_a_limit_counts_normalized_characters(tmp_path):
    (tmp_path / "a.txt").write_text("The Time  Machine,\nby H. G. Wells [1898]\n\n\tI\n")
    assert text_of(tmp_path / "a.txt", limit=5) == "The T"
    assert text_of(tmp_path / "a.txt", limit=999).endswith("\tI\n")
    assert text_of(tmp_path / "a.txt", normalize="letters", limit=18) == "the time machineby"


def test_text_after_the_limit_is_not_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"ab\n" * 700_000 + b"\xff")
    assert text_of(tmp_path / "a.txt", limit=5) == "ab\nab"
    with pytest.raises(InputError, match="byte 0xff at offset 2100000"):
        text_of(tmp_path / "a.txt", limit=2_100_001)


PIECES = st.text(alphabet="abc \n\r,\u4e2d\U0001f600", max_size=40)


@quick
@given(texts=st.lists(PIECES, min_size=1, max_size=4), size=st.integers(2, 9), how=st.sampled_from(["keep", "spaces"]))
def test_passages_are_the_text(texts, size, how, tmp_path_factory):
    """However small the passages are; each ends after a line break or else a space, if it has one."""
    folder = tmp_path_factory.mktemp("texts")
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_bytes(text.encode())
    chosen = TextSettings(corpus=str(folder), normalize=how)
    result = list(passages(chosen, size=size))
    assert "".join(p.text for p in result) == read(chosen)
    assert [p.begins for p in result] == [True] + [False] * (len(result) - 1) if result else True
    assert all(len(p.text) <= size for p in result)
    for passage in result[:-1] if how == "keep" else ():
        assert passage.text.endswith("\n") or "\n" not in passage.text
        assert passage.text.endswith(("\n", " ")) or len(passage.text) == size


@quick
@given(words=st.lists(st.tuples(st.sampled_from(["ab", "Cde", "fghi"]), st.sampled_from([" ", ",\n", "\n", "7-"]))))
def test_letters_are_the_same_however_the_text_is_cut(words, tmp_path_factory):
    """A line is cut within a word, where nothing is stripped."""
    text = "".join(word + separator for word, separator in words)
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text(text)
    result = passages(TextSettings(corpus=str(path), normalize="letters"), size=9)
    assert "".join(p.text for p in result) == normalize(text, "letters")


def test_files_are_documents(tmp_path):
    for name, text in {"a.txt": "one\ntwo\n", "b.txt": "", "c.txt": "three four", "d.txt": "\n"}.items():
        (tmp_path / name).write_text(text)
    result = passages(TextSettings(corpus=str(tmp_path), documents="files"), size=6)
    assert [(p.text, p.begins) for p in result] == [
        ("one\n", True), ("two\n", False), ("three ", True), ("four", False), ("\n", True)
    ]  # fmt: skip


def test_lines_are_documents(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo is long\x0b\u2028x\n\n\n")
    (tmp_path / "b.txt").write_text("three")
    result = passages(TextSettings(corpus=str(tmp_path), documents="lines"), size=7)
    assert [(p.text, p.begins) for p in result] == [
        ("one", True), ("two is ", True), ("long\x0b\u2028x", False), ("three", True)
    ]  # fmt: skip


def test_several_sources_are_one_text(tmp_path):
    for name in "ba":
        (tmp_path / name).write_text(name)
    result = passages(TextSettings(), [str(tmp_path / "b"), str(tmp_path / "a")])
    assert "".join(p.text for p in result) == "b\na"


# The bundled texts


@pytest.mark.parametrize(("name", "characters", "distinct"), [("voyage", 30_000, 50), ("verses", 10_000, 800)])
def test_bundled_texts(name, characters, distinct):
    text = text_of(name)
    assert len(text) > characters
    assert len(set(text)) >= distinct
    assert [c for c in text if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0] == []
    assert text.endswith("\n")
    assert not text.startswith(("\n", "\ufeff"))
    assert locate(NAMED[name]).read_bytes() == text.encode()  # UTF-8, with line feeds only
    assert not NAMED[name].addresses


def test_the_tale_is_english_and_the_verses_are_chinese():
    tale = text_of("voyage")
    assert sum(c.isascii() for c in tale) > 0.95 * len(tale)
    assert tale.count(" the ") > len(tale) / 500
    verses = text_of("verses")
    assert sum("\u4e00" <= c <= "\u9fff" for c in verses) > 0.8 * len(verses)
    assert "\ufffd" not in verses
