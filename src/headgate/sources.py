"""Texts, wherever they come from: bundled and named corpora, files, directories, archives, stdin; read in passages."""

import codecs
import contextlib
import functools
import gzip
import io
import lzma
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO

from headgate.configuration import TextSettings
from headgate.download import download, file_sha256
from headgate.errors import InputError, nearest

SUFFIXES = (".txt", ".text", ".md", ".gz", ".zip")  # what is read of a directory
PASSAGE = 1 << 20  # characters, at most


@dataclass(frozen=True)
class NamedCorpus:
    """A text with a name: bundled with the package (no addresses), or downloaded once and cached."""

    name: str
    description: str
    file: str
    sha256: str = ""
    addresses: tuple[str, ...] = ()


NAMED = {
    corpus.name: corpus
    for corpus in (
        NamedCorpus("voyage", "The Voyage of the Severance, a tale in English (bundled, public domain)", "voyage.txt"),
        NamedCorpus("verses", "song lyrics in Chinese (bundled, public domain)", "verses.txt"),
        NamedCorpus(
            "time-machine",
            "H. G. Wells, The Time Machine (the textbook's copy, downloaded)",
            "timemachine.txt",
            "8424dbd9532ac81f7e5f0b6add90e6952baea29158309d7d1bf3884f4e12c516",
            (
                "http://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt",
                "https://raw.githubusercontent.com/d2l-ai/d2l-zh/3e36f4a77b1be16f39b372518af5ad288b1ed6c4/data/"
                "timemachine.txt",
            ),
        ),
        NamedCorpus(
            "jay-lyrics",
            "Chinese pop lyrics (the textbook's first edition, downloaded)",
            "jaychou_lyrics.txt.zip",
            "3cfedd7d174111cdad5a27eaffaa6a2432a2842cf2590a03dd8a97610ea07043",
            (
                "https://raw.githubusercontent.com/ShusenTang/Dive-into-DL-PyTorch/"
                "09c8bacc08599eb86236551454ba43b82cb91498/data/jaychou_lyrics.txt.zip",
                "https://raw.githubusercontent.com/d2l-ai/d2l-zh/344fe995bfc55d1f11cd8ad565854b820ba7ae7f/data/"
                "jaychou_lyrics.txt.zip",
            ),
        ),
    )
}


@dataclass(frozen=True)
class Passage:
    """A piece of a text, and whether a document begins with it."""

    text: str
    begins: bool


def passages(
    settings: TextSettings, sources: Sequence[str] = (), *, data_dir: Path | None = None, size: int = PASSAGE
) -> Iterator[Passage]:
    """The text of ``settings.corpus``, or of several ``sources``, decoded and normalized, little by little.

    A passage has at most ``size`` characters before it is normalized and is cut behind a line break, or where a line is
    longer than that, behind a space or anywhere. Of the whole the first ``settings.limit`` characters are given.
    Raises InputError for what cannot be read.
    """
    left = settings.limit or sys.maxsize
    for document in _documents(sources or (settings.corpus,), settings, data_dir):
        begins = True
        for text in _cut(document, size, settings.normalize):
            for number, line in enumerate(text.split("\n") if settings.documents == "lines" else [text]):
                begins = begins or number > 0
                if normal := normalize(line, settings.normalize)[:left]:
                    yield Passage(normal, begins)
                    begins = False
                    left -= len(normal)
                if not left:
                    return


def check(sources: Iterable[str], *, data_dir: Path | None = None) -> None:
    """InputError for a source that is not there; what has to be downloaded is."""
    for source in sources:
        for _ in _files(source, data_dir):
            pass


def normalize(text: str, how: str) -> str:
    """A text as ``TextSettings.normalize`` says. Whole lines are normalized independently.

    >>> normalize("The Time  Machine,\\nby H.G. Wells", "letters")
    'the time machineby h g wells'
    """
    if how == "spaces":
        return text.replace("\n", " ")
    if how == "letters":
        return "".join(re.sub("[^A-Za-z]+", " ", line).strip().lower() for line in text.split("\n"))
    return text


def locate(corpus: NamedCorpus, *, data_dir: Path | None = None) -> Path | None:
    """Where a named corpus already lies on this machine: bundled, in the data directory or in the cache; else None."""
    if not corpus.addresses:
        return Path(str(resources.files("headgate") / "corpora" / corpus.file))
    given = data_dir or (Path(os.environ["HEADGATE_DATA"]) if os.environ.get("HEADGATE_DATA") else None)
    for directory in (given, _cache()):
        if directory and (directory / corpus.file).is_file():
            return directory / corpus.file
    return None


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headgate"


def _documents(sources: Iterable[str], settings: TextSettings, data_dir: Path | None) -> Iterator[Iterator[str]]:
    """One stream of text for each document, or where all is read as one, a single stream in which each file begins on a
    line of its own."""
    files = (file for source in sources for file in _files(source, data_dir))
    if settings.documents == "files":
        yield from (_decoded(file, settings) for file in files)
        return

    def joined() -> Iterator[str]:
        last = "\n"
        for file in files:
            if not last.endswith("\n"):
                yield "\n"
            last = ""
            for text in _decoded(file, settings):
                yield text
                last = text or last

    yield joined()


def _cut(blocks: Iterable[str], size: int, how: str) -> Iterator[str]:
    """The same text in pieces that can be normalized, and split into words, one by one."""
    held: list[str] = []
    length = 0
    for block in blocks:
        held.append(block)
        length += len(block)
        while length > size:
            text = "".join(held)
            end = text.rfind("\n", 0, size) + 1
            if not end and how == "letters":  # which makes a space of what it takes out, but none at a line's ends
                end = max((m.end() for m in re.finditer("[A-Za-z](?=[A-Za-z])", text[:size])), default=0)
            end = end or text.rfind(" ", 0, size) + 1 or size
            yield text[:end]
            held, length = [text[end:]], length - end
    if length:
        yield "".join(held)


@dataclass(frozen=True)
class _File:
    """A file, or a piece of an archive, that can be opened."""

    name: str
    path: Path | str
    open: Callable[[], contextlib.AbstractContextManager[IO[bytes] | gzip.GzipFile]]


def _decoded(file: _File, settings: TextSettings) -> Iterator[str]:
    """The text of a file; bytes that are no UTF-8 survive for the tokenizer bytes."""
    as_bytes = settings.tokenizer == "bytes" and _is_utf8(settings.encoding)
    unknown = f"unknown encoding {settings.encoding!r}: one is, for instance, gb18030"
    try:
        io.TextIOWrapper(io.BytesIO(), settings.encoding)  # refuses codecs that are not of text
        plain = codecs.getincrementaldecoder(settings.encoding)("surrogateescape" if as_bytes else "strict")
    except (LookupError, ValueError):
        raise InputError(unknown) from None
    decoder = plain if as_bytes else io.IncrementalNewlineDecoder(plain, translate=True)
    read, first = 0, True
    for raw in _blocks(file):
        read += len(raw)
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            offset = read - len(error.object) + error.start
            remedy = "name its encoding with --encoding"
            raise InputError(
                f"{file.name} is not {settings.encoding}: byte 0x{error.object[error.start]:02x} at offset {offset}; "
                + (remedy if settings.tokenizer == "bytes" else f"{remedy}, or use --tokenizer bytes")
            ) from None
        except UnicodeError:  # of the codec "undefined"
            raise InputError(unknown) from None
        if first and text:
            text, first = text if as_bytes else text.removeprefix("\ufeff"), False
        yield text


def _blocks(file: _File, size: int = 1 << 18) -> Iterator[bytes]:
    """The bytes of a file, and at the end an empty block."""
    with _explained(file.path), file.open() as stream:
        while block := stream.read(size):
            yield block
    yield b""


def _files(source: str, data_dir: Path | None) -> Iterator[_File]:
    """The files of a corpus in a fixed order."""
    if source == "-":
        yield _File("standard input", "standard input", lambda: contextlib.nullcontext(sys.stdin.buffer))
        return
    path = Path(source)
    if source in NAMED:
        corpus = NAMED[source]
        found = locate(corpus, data_dir=data_dir)
        if found is None:
            found = download(corpus.addresses, corpus.sha256, _cache() / corpus.file)
        elif corpus.sha256 and file_sha256(found) != corpus.sha256:
            raise InputError(f"{found} is not the {source} corpus (its checksum differs): replace or remove the file")
        yield from _file(found)
    elif path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not files:
            raise InputError(f"the directory {source} holds no text: files ending in {', '.join(SUFFIXES)} are read")
        for file in files:
            yield from _file(file)
    elif path.exists():
        yield from _file(path)
    else:
        raise InputError(
            f"there is no file and no corpus {source}: give the path of a text, or a name ({nearest(source, NAMED)})"
        )


def _file(path: Path) -> Iterator[_File]:
    if path.suffix.lower() == ".gz":
        yield _File(str(path), path, lambda: gzip.GzipFile(path))
    elif path.suffix.lower() == ".zip":
        with _explained(path), zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX"))
        for name in names:
            yield _File(f"{path}:{name}", path, functools.partial(_member, path, name))
    else:
        yield _File(str(path), path, lambda: path.open("rb"))


def _member(path: Path, name: str) -> IO[bytes]:
    with zipfile.ZipFile(path) as archive:  # it stays open for as long as its member is
        return archive.open(name)


@contextlib.contextmanager
def _explained(path: Path | str) -> Iterator[None]:
    """What goes wrong while a file is read, in a sentence that names it."""
    try:
        yield
    except (
        gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError,
        UnicodeDecodeError,
    ) as error:  # fmt: skip
        raise InputError(f"{path} cannot be unpacked ({error}): unpack it yourself, or replace it") from None
    except OSError as error:
        if error.errno is None:  # bz2
            raise InputError(f"{path} cannot be unpacked ({error}): unpack it yourself, or replace it") from None
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from None


def _is_utf8(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name == "utf-8"
    except (LookupError, ValueError):
        return False
