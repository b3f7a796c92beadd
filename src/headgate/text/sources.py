"""Texts read in passages: from bundled and named corpora, files, directories, archives and standard input."""

import codecs
import contextlib
import io
import os
import re
import shlex
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from headgate.errors import InputError, suggest
from headgate.machine import available_memory, free_memory, in_gigabytes
from headgate.settings.run import TextSettings
from headgate.text.archives import (
    IN_ARCHIVES,
    SUFFIXES,
    LeftOut,
    Member,
    explained,
    is_hidden,
    packing,
    printable,
    refuse,
    texts,
)
from headgate.text.catalogue import NAMED, fetched

PASSAGE = 1 << 20  # characters, at most
_ID_BYTES = {  # least bytes of memory per character while ids are made
    "characters": 8,
    "bytes": 8,
    "words": 1,
    "subwords": 2,
}


@dataclass(frozen=True)
class Passage:
    """A piece of a text; ``begins`` is True if it is the first of a document."""

    text: str
    begins: bool


def passages(
    settings: TextSettings, sources: Sequence[str] = (), *, data_dir: Path | None = None, size: int = PASSAGE
) -> Iterator[Passage]:
    """Yield the text of ``settings.corpus``, or of several ``sources``, in decoded and normalized pieces.

    A passage has at most ``size`` characters before normalization. It ends after a line break or, if a line is longer
    than ``size``, after a space or anywhere. Stops after ``settings.limit`` characters in all, unless that is 0.
    Raises InputError for a text that cannot be read.
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


def whole(settings: TextSettings, *, data_dir: Path | None = None) -> list[Passage]:
    """Read all passages of ``settings.corpus``. Raises InputError if they and their ids do not fit into memory."""
    with fits_memory(settings.corpus):
        known = sum(path.stat().st_size for path in _paths(settings.corpus, data_dir) if _is_plain(path))
        free = free_memory()
        if free is not None and free < known and not settings.limit:
            raise MemoryError
        text = []
        characters = 0
        for passage in passages(settings, data_dir=data_dir):
            text.append(passage)
            characters += len(passage.text)
            if len(text) % 64 == 0:
                free = free_memory()
                if free is not None and free < characters * _ID_BYTES[settings.tokenizer]:
                    raise MemoryError
        return text


@contextlib.contextmanager
def fits_memory(source: str) -> Iterator[None]:
    """Context manager: turn a MemoryError into an InputError that says what to do about a text that is too large."""
    try:
        yield
    except MemoryError:
        free = free_memory()
        room = "" if free is None else f" ({free / 1e9:.1f} GB are free)"
        how = "write it to a file, tokenize the file" if is_stream(source) else "tokenize it"
        name = "FILE" if is_stream(source) else shlex.quote(source)
        raise InputError(
            f"{_called(source)} is too large for the memory{room}: {how} with 'headgate prepare {name} --out DIR' and "
            "train on DIR, or use a part of it with --limit"
        ) from None


def check_size(settings: TextSettings, *, remedy: str) -> None:
    """Raise InputError if a plain file, as text and as ids, does not fit into the available memory."""
    path = Path(settings.corpus)
    files = [f for f in path.rglob("*") if f.suffix.lower() in (".txt", ".text", ".md")] if path.is_dir() else [path]
    size = sum(os.path.getsize(file) for file in files if file.is_file())
    if settings.limit or settings.normalize == "letters" or settings.corpus.lower().endswith((".gz", ".zip")):
        return  # the size of the text is not known then
    factor = {"bytes": 4, "characters": 2}.get(settings.tokenizer, 0.5)  # a lower bound in any language
    if (least := int(size * factor)) > (most := available_memory()):
        raise InputError(
            f"{settings.corpus} has {in_gigabytes(size)} and takes at least {in_gigabytes(least)} of memory when read "
            f"whole, but {in_gigabytes(most)} are available: {remedy}"
        )


def check(sources: Iterable[str], *, data_dir: Path | None = None) -> None:
    """Raise InputError for a source that does not exist or cannot be read; download named corpora that are missing."""
    for source in sources:
        for path in _paths(source, data_dir):
            packing(path)


def is_stream(source: str) -> bool:
    """Return True if a source can be read only once: standard input, or a shell's path for <(...)."""
    if source == "-":
        return True
    if not os.path.abspath(source).startswith(("/dev/fd/", "/dev/stdin", "/proc/self/fd/")):
        return False
    try:
        return stat.S_ISFIFO(os.stat(source).st_mode)
    except OSError:
        return False


def normalize(text: str, how: str) -> str:
    """Normalize a text as ``TextSettings.normalize`` says; whole lines are normalized independently.

    >>> normalize("The Time  Machine,\\nby H.G. Wells", "letters")
    'the time machineby h g wells'
    """
    if how == "spaces":
        return text.replace("\n", " ")
    if how == "letters":
        return "".join(re.sub("[^A-Za-z]+", " ", line).strip().lower() for line in text.split("\n"))
    return text


def _documents(sources: Iterable[str], settings: TextSettings, data_dir: Path | None) -> Iterator[Iterator[str]]:
    """Yield one stream of text per file or, unless files are documents, a single one of all files.

    In the single stream, each file begins on a new line.
    """
    as_bytes = settings.tokenizer == "bytes"
    files = (file for source in sources for file in _files(source, data_dir, as_bytes=as_bytes))
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
    """Cut a text into pieces that can be normalized, and split into words, independently."""
    held: list[str] = []
    length = 0
    for block in blocks:
        held.append(block)
        length += len(block)
        while length > size:
            text = "".join(held)
            end = text.rfind("\n", 0, size) + 1
            if not end and how == "letters":  # strips the ends of a piece, so cut between two letters
                end = max((m.end() for m in re.finditer("[A-Za-z](?=[A-Za-z])", text[:size])), default=0)
            end = end or text.rfind(" ", 0, size) + 1 or size
            yield text[:end]
            held, length = [text[end:]], length - end
    if length:
        yield "".join(held)


def _decoded(file: Member, settings: TextSettings) -> Iterator[str]:
    """Yield the decoded text of a file. For the tokenizer bytes, bytes that are not valid UTF-8 are preserved."""
    as_bytes = settings.tokenizer == "bytes" and _is_utf8(settings.encoding)
    unknown = f"unknown encoding {settings.encoding!r}: name one that Python knows, for instance gb18030"
    try:
        io.TextIOWrapper(io.BytesIO(), settings.encoding)  # raises for codecs that are not text encodings
        codecs.getincrementaldecoder(settings.encoding)
    except (LookupError, ValueError):
        raise InputError(unknown) from None
    encoding = settings.encoding
    decoder: codecs.IncrementalDecoder | io.IncrementalNewlineDecoder | None = None
    read, first = 0, True
    for raw in _blocks(file, as_bytes=as_bytes):
        if decoder is None:
            if _is_utf8(encoding) and not as_bytes:
                encoding = _marked(raw) or encoding
                _check_zeros(raw, file.name)
            decoder = codecs.getincrementaldecoder(encoding)("surrogateescape" if as_bytes else "strict")
            if not as_bytes:
                decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        read += len(raw)
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            offset = read - len(error.object) + error.start
            remedy = "name its encoding with --encoding"
            raise InputError(
                f"{file.name} is not {encoding}: byte 0x{error.object[error.start]:02x} at offset {offset}; "
                + (remedy if settings.tokenizer == "bytes" else f"{remedy}, or use --tokenizer bytes")
            ) from None
        except UnicodeError:  # of the codec "undefined"
            raise InputError(unknown) from None
        if not as_bytes and not _is_utf8(encoding) and (half := _SURROGATE.search(text)):  # of utf-7, for instance
            raise InputError(
                f"{file.name} contains half a surrogate pair, U+{ord(half.group()):04X}, which is not a character, "
                f"when read as {encoding}: name its encoding with --encoding"
            )
        if first and text:
            text, first = text if as_bytes else text.removeprefix("\ufeff"), False
        yield text


_SURROGATE = re.compile("[\ud800-\udfff]")
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",  # before UTF-16, whose marks begin them
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def _marked(raw: bytes) -> str:
    """Return the encoding that a byte order mark names, or an empty string. No mark is the beginning of UTF-8 text."""
    return next((encoding for mark, encoding in _MARKS.items() if raw.startswith(mark)), "")


def _check_zeros(raw: bytes, name: str) -> None:
    """Raise InputError for UTF-16 without a byte order mark, which would otherwise decode as UTF-8 with zeros."""
    head = raw[:4096]
    zeros = head.count(0)
    if len(head) < 8 or zeros <= len(head) // 4 or _marked(raw):
        return
    odd = head[1::2].count(0) / zeros
    order = "le" if odd > 0.9 else "be" if odd < 0.1 else ""
    guess = (
        f"it looks like UTF-16, so use --encoding utf-16-{order}"
        if order
        else "to read it anyway, use --tokenizer bytes"
    )
    raise InputError(f"{name} is not UTF-8 text ({zeros / len(head):.0%} of its first bytes are zero): {guess}")


def _blocks(file: Member, size: int = 1 << 18, *, as_bytes: bool) -> Iterator[bytes]:
    """Yield the bytes of a file in blocks, and an empty block at the end."""
    first = True
    with explained(file.path), file.open() as stream:
        while block := stream.read(size):
            if first:
                refuse(block, file.name, as_bytes=as_bytes)
                first = False
            yield block
    yield b""


def _files(source: str, data_dir: Path | None, *, as_bytes: bool) -> Iterator[Member]:
    """Yield the texts of a source in a fixed order."""
    if source == "-":
        yield Member("standard input", "standard input", _standard_input)
        return
    if is_stream(source):
        yield Member(source, source, lambda: open(source, "rb"))  # noqa: SIM115 - whoever opens it closes it
        return
    empty = True
    for path in _paths(source, data_dir, tell=True):
        for file in texts(path, as_bytes=as_bytes):
            empty = False
            yield file
    if empty:
        kind, suffixes = ("directory", SUFFIXES) if os.path.isdir(source) else ("archive", IN_ARCHIVES)
        raise InputError(f"the {kind} {source} holds no text: only files ending in {', '.join(suffixes)} are read")


def _standard_input() -> contextlib.AbstractContextManager[IO[bytes]]:
    if sys.stdin is None or getattr(sys.stdin, "closed", False):
        raise InputError("standard input is closed: pipe a text into it, or give the path of a text")
    stream = sys.stdin.buffer
    try:
        status = os.fstat(stream.fileno())
        null = os.stat(os.devnull)
    except OSError:  # it is not a file
        return contextlib.nullcontext(stream)
    if stat.S_ISCHR(status.st_mode) and not stream.isatty() and status.st_rdev != null.st_rdev:
        raise InputError("standard input is a device, not a text: pipe a text into it, or give the path of a text")
    return contextlib.nullcontext(stream)


def _paths(source: str, data_dir: Path | None, *, tell: bool = False) -> Iterator[Path]:
    """Yield the files of a source that is not a stream, in a fixed order, packed ones not unpacked.

    With ``tell``, warn about the files left out.
    """
    if is_stream(source):
        return
    if source in NAMED:
        yield fetched(NAMED[source], data_dir)
        return
    path = Path(source)
    if not source:
        raise InputError(f"the name of the corpus is empty: give the path of a text, or a name ({', '.join(NAMED)})")
    try:
        exists = path.exists()
    except OSError as error:
        beginning = printable(source if len(source) <= 60 else f"{source[:60]}...")
        raise InputError(
            f"{beginning} cannot be read ({error.strerror}): give the path of a text, or pipe a text into '-'"
        ) from None
    if not exists:
        raise InputError(
            f"there is no file or corpus {source}: give the path of a text, or a name ({suggest(source, NAMED)})"
        )
    if path.is_dir():
        yield from _in_directory(path, tell=tell)
    else:
        _check_regular(path)
        yield path


def _in_directory(folder: Path, *, tell: bool) -> Iterator[Path]:
    left_out = LeftOut(str(folder))

    def fail(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): check its permissions")

    files = []
    for root, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in folders:
            if os.path.islink(os.path.join(root, name)):  # it may lead to a cycle
                left_out.add(name)
        for name in names:
            if is_hidden(name):
                continue
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                files.append(Path(root, name))
            else:
                left_out.add(name)
    left_out.read = len(files)
    if tell:
        left_out.tell()
    for file in sorted(files):
        _check_regular(file)
        yield file


def _check_regular(path: Path) -> None:
    """Raise InputError unless a path is a regular file, whose end can be reached."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise InputError(f"{path} is a broken link: repair or remove it") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from None
    if not stat.S_ISREG(mode):
        what = "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise InputError(f"{path} is {what}, not a text: give a file, or '-' and pipe the text into it")


def _is_plain(path: Path) -> bool:
    """Return True if a file is not packed, so that its text is at least as large as the file."""
    return not packing(path)


def _called(source: str) -> str:
    return "standard input" if source == "-" else source


def _is_utf8(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name == "utf-8"
    except (LookupError, ValueError):
        return False
