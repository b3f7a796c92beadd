"""Texts in archives and compressed files: the members that are read, their order, and what is refused."""

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import warnings
import zipfile

import pytest

from headgate.errors import InputError
from headgate.settings.run import TextSettings
from headgate.text import archives, sources

TWICE = gzip.compress(gzip.compress(b"x", mtime=0), mtime=0)
FILES = {"b/z.txt": b"3\n", "a.md": b"1\n", "b/TEXT.TEXT": "分\n".encode()}


def text_of(path, **chosen) -> str:
    return "".join(p.text for p in sources.passages(TextSettings(corpus=str(path), **chosen)))


def zipped(files, compression=zipfile.ZIP_DEFLATED) -> bytes:
    """Make a zip archive of (name, content) pairs; names may be repeated."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about repeated names
        with zipfile.ZipFile(stream, "w", compression) as archive:
            for name, content in files.items() if isinstance(files, dict) else files:
                archive.writestr(name, content)
    return stream.getvalue()


def tarred(files, format=tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b"" if isinstance(content, tarfile.TarInfo) else content
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tuple[str, tarfile.TarInfo]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return name, info


# Packed texts


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.tar", bytes), ("a.tar.gz", gzip.compress), ("a.tgz", gzip.compress), ("a.tar.bz2", bz2.compress),
        ("a.tbz2", bz2.compress), ("a.tar.xz", lzma.compress), ("a.txz", lzma.compress), ("a.gz", gzip.compress),
        ("a.txt", bytes), ("a.txt", gzip.compress), ("corpus", lzma.compress),
    ],
)  # fmt: skip
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_recognized_by_its_content(tmp_path, name, pack, format):
    """Whatever its name is; its members are read in the order of the archive."""
    (tmp_path / name).write_bytes(pack(tarred(FILES, format)))
    assert text_of(tmp_path / name) == "3\n1\n分\n"


@pytest.mark.parametrize("name", ["a.txt.gz", "a", "a.txt"])
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_packed_text_is_recognized_by_its_content(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack("分\r\n开".encode()))
    assert text_of(tmp_path / name) == "分\n开"


def test_a_zip_is_recognized_by_its_content(tmp_path):
    (tmp_path / "corpus").write_bytes(zipped(FILES))
    assert text_of(tmp_path / "corpus") == "1\n分\n3\n"


def test_a_text_may_begin_like_a_packed_one(tmp_path):
    for text in ("BZh is no compression", "PK is not either", "ustar"):
        (tmp_path / "a.txt").write_text(text)
        assert text_of(tmp_path / "a.txt") == text


def test_bytes_are_unpacked_only_if_the_name_says_so(tmp_path):
    raw = gzip.compress(b"text", mtime=0)
    (tmp_path / "a.bin").write_bytes(raw)
    (tmp_path / "a.gz").write_bytes(raw)
    assert text_of(tmp_path / "a.bin", tokenizer="bytes").encode("utf-8", "surrogateescape") == raw
    assert text_of(tmp_path / "a.gz", tokenizer="bytes") == "text"


def test_an_old_tar_without_ustar_in_its_header(tmp_path):
    header = bytearray(tarred({"a.txt": b"text"}, tarfile.USTAR_FORMAT))
    header[257:265] = bytes(8)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    (tmp_path / "a.tar").write_bytes(header)
    assert text_of(tmp_path / "a.tar") == "text"


# Members


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_all_members_with_the_same_name_are_read(tmp_path, pack):
    (tmp_path / "a.x").write_bytes(pack([("a.txt", b"first\n"), ("b.txt", b"second\n"), ("a.txt", b"third\n")]))
    assert sorted(text_of(tmp_path / "a.x").splitlines()) == ["first", "second", "third"]


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_only_texts_are_read_and_other_files_are_counted(tmp_path, pack):
    files = {
        "a.txt": b"1\n", "cover.jpg": b"\xff", "x/README": b"no", "b.zip": zipped({"c.txt": b"no"}), "t.tar.gz": b"no",
        ".hidden.txt": b"no", ".git/a.txt": b"no", "__MACOSX/a.txt": b"\xff", "x/._a.txt": b"\xff", "./z.md": b"2\n",
        "p.txt.gz": gzip.compress(b"3\n", mtime=0), "q.bz2": bz2.compress(b"4\n"), "r.XZ": lzma.compress(b"5\n"),
    }  # fmt: skip
    (tmp_path / "a").write_bytes(pack(files))
    message = (
        r"^.*/a: 5 texts read, 4 files left out \(cover\.jpg, x/README, b\.zip, \.\.\.\): "
        r"only files ending in \.txt, \.text, \.md, \.gz, \.bz2, \.xz are read$"
    )
    with pytest.warns(UserWarning, match=message) as told:
        assert sorted(text_of(tmp_path / "a").split()) == ["1", "2", "3", "4", "5"]
    assert len(told) == 1


def test_links_and_devices_in_a_tar_are_left_out(tmp_path):
    files = [
        ("a.txt", b"text"),
        special("b.txt", tarfile.SYMTYPE, "/etc/passwd"),
        special("c.txt", tarfile.LNKTYPE, "a.txt"),
        special("d.txt", tarfile.FIFOTYPE),
        special("e.txt", tarfile.CHRTYPE),
        special("f.txt", tarfile.DIRTYPE),
    ]
    (tmp_path / "a.tar").write_bytes(tarred(files))
    with pytest.warns(UserWarning, match=r"1 text read, 4 files left out \(b\.txt, c\.txt, d\.txt, \.\.\.\)"):
        assert text_of(tmp_path / "a.tar") == "text"


def test_a_link_in_a_zip_is_left_out(tmp_path):
    link = zipfile.ZipInfo("b.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    (tmp_path / "a.zip").write_bytes(zipped([("a.txt", b"text"), (link, b"/etc/passwd")]))
    with pytest.warns(UserWarning, match=r"1 text read, 1 file left out \(b\.txt\)"):
        assert text_of(tmp_path / "a.zip") == "text"


def test_members_are_documents(tmp_path):
    (tmp_path / "a.tgz").write_bytes(gzip.compress(tarred(FILES), mtime=0))
    result = sources.passages(TextSettings(corpus=str(tmp_path / "a.tgz"), documents="files"))
    assert [(p.text, p.begins) for p in result] == [("3\n", True), ("1\n", True), ("分\n", True)]


def test_a_zip_is_opened_once_however_many_members_it_has(tmp_path, monkeypatch):
    """Opening it reads the list of all members."""
    opened = []

    class Counted(zipfile.ZipFile):
        def __init__(self, *arguments, **named):
            opened.append(arguments)
            super().__init__(*arguments, **named)

    (tmp_path / "a.zip").write_bytes(zipped({f"{i:03}.txt": b"%d\n" % i for i in range(300)}))
    monkeypatch.setattr(zipfile, "ZipFile", Counted)
    assert text_of(tmp_path / "a.zip").split() == [str(i) for i in range(300)]
    assert len(opened) == 1


def test_a_tar_is_read_once_and_forgets_its_members(tmp_path, monkeypatch):
    (tmp_path / "a.tar").write_bytes(tarred({f"{i:03}.txt": b"%d\n" % i for i in range(300)}))
    result = list(archives.texts(tmp_path / "a.tar"))
    assert len(result) == 300
    counted = []

    class Counted(tarfile.TarFile):
        def next(self):
            counted.append(len(self.members))
            return super().next()

    monkeypatch.setattr(tarfile, "TarFile", Counted)
    assert text_of(tmp_path / "a.tar").split() == [str(i) for i in range(300)]
    assert max(counted) <= 1
    assert len(counted) <= 303


def test_archives_in_a_directory(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, content in {
        "a.tar.gz": gzip.compress(tarred({"1.txt": b"1\n"}), mtime=0), "b.bz2": bz2.compress(b"2\n"),
        "c.tar": tarred({"3.md": b"3"}), "d.txz": lzma.compress(tarred({"4.md": b"4"})), "e.xz": lzma.compress(b"5"),
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
    assert text_of(folder) == "1\n2\n3\n4\n5"


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_without_texts(tmp_path, pack):
    (tmp_path / "a.zip").write_bytes(pack({"cover.jpg": b"\xff"}))
    with pytest.raises(
        InputError,
        match=r"^the archive .*/a\.zip holds no text: "
        r"only files ending in \.txt, \.text, \.md, \.gz, \.bz2, \.xz are read$",
    ):
        text_of(tmp_path / "a.zip")


# What is refused


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.zst", b"\x28\xb5\x2f\xfdrest", r"is compressed with Zstandard \(zstd -d unpacks it\), which headgate does"),
        ("a.7z", b"7z\xbc\xaf\x27\x1crest", r"is compressed with 7-Zip \(7z x unpacks it\)"),
        ("a.rar", b"Rar!\x1a\x07\x01\0rest", r"is compressed with RAR \(unrar x unpacks it\)"),
        ("a.lz4", b"\x04\x22\x4d\x18rest", r"is compressed with LZ4"),
        ("a.Z", b"\x1f\x9d\x90rest", r"is compressed with compress"),
        ("a.pdf", b"%PDF-1.7\nrest", "is a PDF document, not a text: save its content as plain text, and give that$"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1rest", "is a document of an older Word, Excel or PowerPoint, "),
        ("a.parquet", b"PAR1rest", "is a Parquet table, not a text"),
        ("a.db", b"SQLite format 3\0rest", "is an SQLite database, not a text"),
        ("a.png", b"\x89PNG\r\n\x1a\nrest", "is a PNG picture, not a text"),
        ("a.docx", zipped({"[Content_Types].xml": b"<x/>", "a.txt": b""}), "is a Word, Excel or PowerPoint document"),
        ("a.epub", zipped({"mimetype": b"application/epub+zip", "a.txt": b"x"}), "is an EPUB book, not a text"),
        ("a.odt", zipped({"mimetype": b"application/vnd.oasis.opendocument.text"}), "is an OpenDocument document, not"),
        ("a.txt.gz", TWICE, r"is packed \(gzip\) and cannot be read there: unpack it"),
        ("a.pdf.gz", gzip.compress(b"%PDF-1.7", mtime=0), "is a PDF document, not a text"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rename", [False, True])
def test_other_formats_are_named(tmp_path, name, raw, message, rename):
    """By their content, whatever their names are."""
    path = tmp_path / ("a.txt" if rename and not name.endswith(".gz") else name)
    path.write_bytes(raw)
    with pytest.raises(InputError, match=f"^{path} {message}"):
        text_of(path)


def test_a_packed_file_in_a_pipe_is_named(monkeypatch):
    class Given:
        buffer = io.BytesIO(gzip.compress(b"text", mtime=0))

    monkeypatch.setattr(archives, "ALLOWED", 1 << 20)
    monkeypatch.setattr("sys.stdin", Given)
    with pytest.raises(
        InputError,
        match=r"^standard input is packed \(gzip\) and cannot be read there: "
        "unpack it, or give the path of the packed file$",
    ):
        text_of("-")


def test_bytes_may_be_anything_except_files_named_as_compressed(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7")
    assert text_of(tmp_path / "a.pdf", tokenizer="bytes") == "%PDF-1.7"
    (tmp_path / "a.zst").write_bytes(b"\x28\xb5\x2f\xfdrest")
    with pytest.raises(InputError, match=r"a\.zst is compressed with Zstandard"):
        text_of(tmp_path / "a.zst", tokenizer="bytes")


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.gz", gzip.compress),
        ("a.bz2", bz2.compress),
        ("a.xz", lzma.compress),
        ("a.zip", lambda raw: zipped({"a.txt": raw})),
    ],
)
def test_no_more_is_unpacked_than_a_text_can_unpack_to(tmp_path, monkeypatch, name, pack):
    monkeypatch.setattr(archives, "ALLOWED", 10_000)
    (tmp_path / name).write_bytes(pack(b"x" * 300_000))
    assert (tmp_path / name).stat().st_size * archives.EXPANSION < 300_000
    with pytest.raises(
        InputError,
        match=rf"^{tmp_path}/{name} unpacks to more than \d+,\d+ bytes, which no text of its size does: "
        "if you trust it, unpack it",
    ):
        text_of(tmp_path / name)
    (tmp_path / name).write_bytes(pack(b"x" * 9_000))
    assert text_of(tmp_path / name) == "x" * 9_000


def test_a_tar_bomb_is_stopped_in_skipped_members_too(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ALLOWED", 10_000)
    (tmp_path / "a.tgz").write_bytes(gzip.compress(tarred({"a.jpg": b"x" * 900_000, "a.txt": b"text"}), mtime=0))
    with pytest.raises(InputError, match=rf"^{tmp_path}/a\.tgz unpacks to more than "):
        text_of(tmp_path / "a.tgz")


def test_a_zip_that_declares_an_absurd_size_is_refused_before_it_is_read(tmp_path):
    raw = bytearray(zipped({"a.txt": b"text"}))
    place = raw.index(b"PK\x01\x02") + 24
    raw[place : place + 4] = struct.pack("<I", 0xFFFFFFF0)
    (tmp_path / "a.zip").write_bytes(raw)
    with pytest.raises(InputError, match=r"a\.zip unpacks to more than 1,073,741,824 bytes, which no text"):
        text_of(tmp_path / "a.zip")


def test_members_that_overlap_are_refused(tmp_path):
    """A zip that lists one member many times unpacks to the square of its size."""
    raw = zipped({"a.txt": bytes(range(256)) * 8}, zipfile.ZIP_STORED)
    begin, end = raw.index(b"PK\x01\x02"), raw.index(b"PK\x05\x06")
    entry, tail = raw[begin:end], bytearray(raw[end:])
    tail[8:16] = struct.pack("<HHI", 40, 40, 40 * len(entry))
    (tmp_path / "a.zip").write_bytes(raw[:begin] + entry * 40 + tail)
    with pytest.raises(InputError, match=r"a\.zip cannot be unpacked \(its members overlap\): "):
        text_of(tmp_path / "a.zip")


def test_an_encrypted_member_is_named(tmp_path):
    raw = bytearray(zipped({"b/a.txt": b"text"}))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(signature) + flags] |= 1
    (tmp_path / "a.zip").write_bytes(raw)
    with pytest.raises(InputError, match=r"a\.zip cannot be unpacked \(b/a\.txt is encrypted\): unpack it yourself"):
        text_of(tmp_path / "a.zip")


def test_a_header_of_absurd_size_is_refused(tmp_path):
    raw = bytearray(tarred({"x" * 300 + ".txt": b"text"}, tarfile.GNU_FORMAT))
    raw[124:136] = b"77777777777\0"
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    (tmp_path / "a.tar").write_bytes(raw)
    with pytest.raises(InputError, match=r"a\.tar cannot be unpacked \(a header in it has 8,589,934,\d+ bytes\)"):
        text_of(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda raw: raw[:1024] + b"\xff" * 8 + raw[1032:], "a header in it is damaged"),
        (lambda raw: raw[:514], "unexpected end of data"),
        (lambda raw: raw[:1024] + raw[1024:1300], "a header in it is damaged"),
        (lambda raw: raw + raw, "there is data after its end"),
    ],
)
def test_a_tar_damaged_in_the_middle_is_not_read_as_a_shorter_one(tmp_path, change, what):
    (tmp_path / "a.tar").write_bytes(change(tarred({"a.txt": b"first", "b.txt": b"second"})))
    with pytest.raises(InputError, match=rf"a\.tar cannot be unpacked \({what}\): unpack it yourself, or replace it$"):
        text_of(tmp_path / "a.tar")


def test_a_checksum_after_the_end_of_a_tar_is_verified(tmp_path):
    raw = bytearray(gzip.compress(tarred({"a.txt": b"text"}), mtime=0))
    raw[-8] ^= 1
    (tmp_path / "a.tgz").write_bytes(raw)
    with pytest.raises(InputError, match=r"a\.tgz cannot be unpacked \(CRC check failed"):
        text_of(tmp_path / "a.tgz")


def test_names_that_break_a_line_are_quoted(tmp_path):
    (tmp_path / "a.tar").write_bytes(tarred({"a\nb.txt": b"\xff"}))
    with pytest.raises(InputError, match=r"a\.tar:'a\\nb\.txt' is not utf-8: "):
        text_of(tmp_path / "a.tar")
