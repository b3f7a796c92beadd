"""Packed texts: zip and tar archives, gzip, bzip2 and xz, recognized by their first bytes.

They are read without unpacking them to a disk. A file whose first bytes show that it is not a text, such as a PDF, is
refused with a message that says what it is.
"""

import bz2
import contextlib
import functools
import gzip
import lzma
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from headgate.errors import InputError

TEXTS = (".txt", ".text", ".md")
PACKED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz"}
ARCHIVES = {".zip": "zip", ".tar": "tar", ".tgz": "gzip", ".tbz2": "bzip2", ".txz": "xz"}
SUFFIXES = (*TEXTS, *PACKED, *ARCHIVES)  # of the files in a directory that are read
IN_ARCHIVES = (*TEXTS, *PACKED)  # of the members of an archive that are read

HEAD = 512  # bytes, enough to recognize a file by
ALLOWED, EXPANSION = 1 << 30, 200  # a file may unpack to 1 GiB or to 200 times its size, whichever is larger
LARGEST_HEADER = 1 << 24  # bytes, in a tar archive

_UNPACK: dict[str, Callable[[Any], Any]] = {
    "gzip": lambda file: gzip.GzipFile(file) if isinstance(file, Path) else gzip.GzipFile(fileobj=file),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}
_BEGINNINGS = {  # of the formats that can be read
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
_COMPRESSED = {  # of the formats that cannot
    b"\x28\xb5\x2f\xfd": ("Zstandard (zstd -d unpacks it)", ".zst"),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip (7z x unpacks it)", ".7z"),
    b"Rar!\x1a\x07": ("RAR (unrar x unpacks it)", ".rar"),
    b"\x04\x22\x4d\x18": ("LZ4 (lz4 -d unpacks it)", ".lz4"),
    b"\x1f\x9d\x90": ("compress (uncompress unpacks it)", ".z"),
    b"LZIP\x01": ("lzip (lzip -d unpacks it)", ".lz"),
}
_BINARY = {
    b"%PDF-": "a PDF document",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "a document of an older Word, Excel or PowerPoint",
    b"PAR1": "a Parquet table",
    b"ARROW1\0": "an Arrow table",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"SQLite format 3\0": "an SQLite database",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG\r\n\x1a\n": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF87a": "a GIF picture",
    b"GIF89a": "a GIF picture",
    b"\x7fELF": "a program",
}
_DOCUMENTS = {  # documents that are stored as zip archives: the name of a member, how it begins
    ("[Content_Types].xml", b""): "a Word, Excel or PowerPoint document",
    ("mimetype", b"application/epub"): "an EPUB book",
    ("mimetype", b"application/vnd.oasis.opendocument"): "an OpenDocument document",
}


@dataclass(frozen=True)
class Member:
    """A text that can be opened: a file, or a member of an archive, which must be read before the next is requested."""

    name: str
    path: Path | str
    open: Callable[[], AbstractContextManager[Any]]


@dataclass
class LeftOut:
    """The files of a directory or an archive that are not read, because they are not texts."""

    where: str
    suffixes: tuple[str, ...] = SUFFIXES
    read: int = 0
    others: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.others += 1
        if len(self.examples) < 3:
            self.examples.append(printable(name))

    def tell(self) -> None:
        """Warn about the files left out, if any, with their number and examples."""
        if self.read and self.others:
            names = ", ".join(self.examples) + (", ..." if self.others > len(self.examples) else "")
            texts, files = (f"{n:,} {what}{'s' * (n != 1)}" for n, what in ((self.read, "text"), (self.others, "file")))
            warnings.warn(
                f"{self.where}: {texts} read, {files} left out ({names}): only files ending in "
                f"{', '.join(self.suffixes)} are read",
                stacklevel=2,
            )


def texts(path: Path, *, as_bytes: bool = False) -> Iterator[Member]:
    """Yield the texts in a file: the file itself or, for an archive, its members that are texts, if any.

    The members of a zip archive come sorted by name, those of a tar archive in the order of the archive. With
    ``as_bytes``, only files with the suffix of a packed file are unpacked. Raises InputError for a file that cannot be
    unpacked, and for one that unpacks to implausibly much.
    """
    kind = packing(path) if not as_bytes or _by_name(path) else ""
    if kind == "zip":
        yield from _zipped(path)
    elif kind == "tar" or (kind and _holds_tar(path, kind)):
        yield from _in_tar(path, kind)
    elif kind:
        yield Member(str(path), path, lambda: _Unpacked(_UNPACK[kind](path), str(path), path.stat().st_size))
    else:
        yield Member(str(path), path, functools.partial(path.open, "rb"))


def packing(path: Path) -> str:
    """Return how a file is packed: "gzip", "bzip2", "xz", "zip" or "tar"; an empty string if it is not."""
    with explained(path), path.open("rb") as stream:
        head = stream.read(HEAD)
    return _kind(head) or _by_name(path)


def refuse(head: bytes, name: str, *, as_bytes: bool = False) -> None:
    """Raise InputError if the first bytes are not those of a text.

    With ``as_bytes``, only if they are those of an unsupported compression and the suffix is too.
    """
    if not as_bytes and (kind := _kind(head)):
        raise InputError(
            f"{name} is packed ({kind}) and cannot be read there: unpack it, or give the path of the packed file"
        )
    for beginning, (what, suffix) in _COMPRESSED.items():
        if head.startswith(beginning) and (not as_bytes or name.lower().endswith(suffix)):
            raise InputError(f"{name} is compressed with {what}, which headgate does not read: unpack it first")
    for beginning, what in _BINARY.items():
        if not as_bytes and head.startswith(beginning):
            raise InputError(f"{name} is {what}, not a text: save its content as plain text, and give that")


def is_hidden(name: str) -> bool:
    """Return True if a file or a directory above it is hidden, or is metadata that macOS adds to archives."""
    return any(part == "__MACOSX" or (part[0] == "." and part != "..") for part in PurePosixPath(name).parts)


def printable(name: str) -> str:
    """Return a name that can be printed in a message."""
    return name if name.isprintable() else repr(name)


@contextlib.contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Context manager: turn errors of reading or unpacking a file into an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except (
        gzip.BadGzipFile,
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        RuntimeError,
        NotImplementedError,
        ValueError,
        OverflowError,
        struct.error,
    ) as error:
        raise InputError(f"{path} cannot be unpacked ({error}): unpack it yourself, or replace it") from None
    except OSError as error:
        if error.errno is None:  # from bz2, for damaged data
            raise InputError(f"{path} cannot be unpacked ({error}): unpack it yourself, or replace it") from None
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from None


def _by_name(path: Path) -> str:
    return {**PACKED, **ARCHIVES}.get(path.suffix.lower(), "")


def _kind(head: bytes) -> str:
    if head[257:262] == b"ustar":
        return "tar"
    kind = next((kind for beginning, kind in _BEGINNINGS.items() if head.startswith(beginning)), "")
    if kind == "bzip2" and head[4:10] not in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):  # a text may begin with BZh
        return ""
    return kind


def _is_member(name: str) -> bool:
    """Return True if a member is read. The suffixes are those of directories, except archives."""
    suffixes = [s.lower() for s in PurePosixPath(name).suffixes[-2:]]
    return bool(suffixes) and (suffixes[-1] in TEXTS or (suffixes[-1] in PACKED and ".tar" not in suffixes))


def _zipped(path: Path) -> Iterator[Member]:
    with explained(path), zipfile.ZipFile(path) as archive:
        files = [info for info in archive.infolist() if not info.is_dir() and not is_hidden(info.filename)]
        _refuse_document(path, archive)
        size = path.stat().st_size
        if sum(info.compress_size for info in archive.infolist()) > size:
            raise zipfile.BadZipFile("its members overlap")
        _check_expansion(str(path), sum(info.file_size for info in files), size)
        left_out = LeftOut(str(path), IN_ARCHIVES)
        chosen = []
        for info in files:
            if _is_member(info.filename) and not stat.S_ISLNK(info.external_attr >> 16):
                chosen.append(info)
            else:
                left_out.add(info.filename)
        left_out.read = len(chosen)
        left_out.tell()
        for info in sorted(chosen, key=lambda info: info.filename):
            name = f"{path}:{printable(info.filename)}"
            opened = functools.partial(_open_zipped, archive, info)
            yield Member(name, path, functools.partial(_unpacked, opened, name, info.file_size))


def _open_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    if info.flag_bits & 1:
        raise RuntimeError(f"{printable(info.filename)} is encrypted")
    return archive.open(info)  # not by its name: two members may have the same


def _refuse_document(path: Path, archive: zipfile.ZipFile) -> None:
    names = archive.NameToInfo
    for (name, beginning), what in _DOCUMENTS.items():
        if name in names:
            with _open_zipped(archive, names[name]) as stream:
                if stream.read(len(beginning)) == beginning:
                    raise InputError(f"{path} is {what}, not a text: save its content as plain text, and give that")


def _holds_tar(path: Path, kind: str) -> bool:
    if path.suffix.lower() in ARCHIVES or path.suffixes[-2:-1] == [".tar"]:
        return True  # also an old one, without "ustar" in its header
    with explained(path), _UNPACK[kind](path) as stream:
        return _kind(stream.read(HEAD)) == "tar"


def _in_tar(path: Path, kind: str) -> Iterator[Member]:
    left_out = LeftOut(str(path), IN_ARCHIVES)
    size = path.stat().st_size
    with explained(path), path.open("rb") if kind == "tar" else _UNPACK[kind](path) as raw:
        stream = _Unpacked(raw, str(path), size)
        archive: Any = tarfile.TarFile(fileobj=stream)  # type: ignore[arg-type]
        while (info := archive.next()) is not None:
            archive.members.clear()  # otherwise it keeps them all
            if info.isdir() or is_hidden(info.name):
                continue
            if not info.isreg() or not _is_member(info.name):  # links and devices have no content of their own
                left_out.add(info.name)
                continue
            if info.issparse():
                raise tarfile.ReadError(f"{printable(info.name)} is a sparse file")
            left_out.read += 1
            name = f"{path}:{printable(info.name)}"
            member = archive.extractfile(info)
            assert member is not None
            opened = functools.partial(contextlib.nullcontext, member)
            yield Member(name, path, functools.partial(_unpacked, opened, name, info.size))
        if stream.last.strip(b"\0"):
            raise tarfile.ReadError("a header in it is damaged")
        while block := stream.read(1 << 18):  # to the end, so that checksums are verified
            if block.strip(b"\0"):
                raise tarfile.ReadError("there is data after its end")
    left_out.tell()


@contextlib.contextmanager
def _unpacked(opened: Callable[[], AbstractContextManager[Any]], name: str, size: int) -> Iterator[Any]:
    """Context manager: a stream of a member of ``size`` bytes, unpacked if the member is itself packed."""
    with opened() as stream:
        kind = PACKED.get(PurePosixPath(name).suffix.lower())
        if kind is None:
            yield stream
        else:
            with _UNPACK[kind](stream) as inner:
                yield _Unpacked(inner, name, size)


def _check_expansion(name: str, unpacked: int, packed: int) -> None:
    if unpacked > max(ALLOWED, EXPANSION * packed):
        raise InputError(
            f"{name} unpacks to more than {max(ALLOWED, EXPANSION * packed):,} bytes, which no text of its size does: "
            "if you trust it, unpack it yourself and give its content"
        )


class _Unpacked:
    """A stream that can only be read forwards, and not beyond the size that a text can unpack to."""

    def __init__(self, stream: Any, name: str, packed: int) -> None:
        """``packed``: the size in bytes of the packed file or member."""
        self._stream, self._name, self._packed = stream, name, packed
        self._position = 0
        self.last = b""  # the last block read

    def read(self, size: int) -> bytes:
        if size > LARGEST_HEADER:
            raise tarfile.ReadError(f"a header in it has {size:,} bytes")
        self.last = self._stream.read(size)
        self._position += len(self.last)
        _check_expansion(self._name, self._position, self._packed)
        return self.last

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("its members overlap")
        while self._position < position and self.read(min(1 << 18, position - self._position)):
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
