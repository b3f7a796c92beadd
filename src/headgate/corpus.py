"""A text as token ids, wherever it comes from: bundled and named corpora, files, directories, archives, stdin."""

import codecs
import gzip
import hashlib
import lzma
import os
import re
import sys
import zipfile
import zlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from headgate.configuration import TextSettings
from headgate.download import download, file_sha256
from headgate.errors import InputError, nearest
from headgate.tokenizer import ByteTokenizer, CharacterTokenizer, Tokenizer

SUFFIXES = (".txt", ".text", ".md", ".gz", ".zip")  # what is read of a directory


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
class Corpus:
    """A text as ids, int32: the part to train on and the part held out, with the tokenizer that made them."""

    training: np.ndarray
    held_out: np.ndarray
    tokenizer: Tokenizer
    characters: int  # of the whole text
    beginning: str  # its first characters, for samples
    sha256: str  # of the prepared text, so that a continued run can tell that it is the same

    @property
    def characters_per_token(self) -> float:
        return self.characters / (len(self.training) + len(self.held_out))


def load(settings: TextSettings, *, data_dir: Path | None = None) -> Corpus:
    """Read, prepare, tokenize and split a text as ``settings`` say.

    The vocabulary is that of the whole text; the held-out part is its end. Raises InputError for what cannot be read.
    """
    text = prepare(read(settings, data_dir=data_dir), settings)
    if not text:
        raise InputError(f"the corpus {settings.corpus} is empty: a text of at least two characters is needed")
    tokenizer: Tokenizer = (
        ByteTokenizer()
        if settings.tokenizer == "bytes"
        else CharacterTokenizer.from_text(text, min_frequency=settings.min_frequency, unknown=settings.unknown)
    )
    ids = tokenizer.encode(text)
    cut = len(ids) - round(len(ids) * settings.held_out)
    if settings.held_out and len(ids) - cut < 2:
        raise InputError(
            f"the held-out part would have {len(ids) - cut} of {len(ids)} tokens, at least 2 are needed: "
            "give more text, a larger --held-out, or --held-out 0"
        )
    return Corpus(
        training=ids[:cut],
        held_out=ids[cut:],
        tokenizer=tokenizer,
        characters=len(text),
        beginning=text[:200].encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
        sha256=hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest(),
    )


def read(settings: TextSettings, *, data_dir: Path | None = None) -> str:
    """The text that ``settings.corpus`` names, decoded; bytes that are no UTF-8 survive for the tokenizer bytes."""
    parts = []
    for name, raw in _sources(settings.corpus, data_dir):
        as_bytes = settings.tokenizer == "bytes" and _is_utf8(settings.encoding)
        try:
            part = raw.decode(settings.encoding, "surrogateescape" if as_bytes else "strict")
        except UnicodeDecodeError as error:
            offset = error.start + len(raw) - len(error.object)  # utf-8-sig counts from behind the mark
            remedy = "name its encoding with --encoding"
            raise InputError(
                f"{name} is not {settings.encoding}: byte 0x{raw[offset]:02x} at offset {offset}; "
                + (remedy if settings.tokenizer == "bytes" else f"{remedy}, or use --tokenizer bytes")
            ) from None
        except (LookupError, ValueError):
            raise InputError(f"unknown encoding {settings.encoding!r}: one is, for instance, gb18030") from None
        if not as_bytes:
            part = part.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        parts.append(part)
    return "".join(part if part.endswith("\n") else part + "\n" for part in parts[:-1]) + "".join(parts[-1:])


def _is_utf8(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name == "utf-8"
    except (LookupError, ValueError):
        return False


def prepare(text: str, settings: TextSettings) -> str:
    """Normalize a text and cut it to ``settings.limit`` characters.

    >>> prepare("The Time  Machine,\\nby H.G. Wells", TextSettings(normalize="letters"))
    'the time machineby h g wells'
    """
    if settings.normalize == "spaces":
        text = text.replace("\n", " ")
    elif settings.normalize == "letters":
        text = "".join(re.sub("[^A-Za-z]+", " ", line).strip().lower() for line in text.split("\n"))
    return text[: settings.limit or None]


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


def _sources(source: str, data_dir: Path | None) -> list[tuple[str, bytes]]:
    """The pieces of a corpus as (name, bytes), in a fixed order."""
    if source == "-":
        return [("standard input", sys.stdin.buffer.read())]
    path = Path(source)
    if source in NAMED:
        corpus = NAMED[source]
        found = locate(corpus, data_dir=data_dir)
        if found is None:
            found = download(corpus.addresses, corpus.sha256, _cache() / corpus.file)
        elif corpus.sha256 and file_sha256(found) != corpus.sha256:
            raise InputError(f"{found} is not the {source} corpus (its checksum differs): replace or remove the file")
        return _file(found)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not files:
            raise InputError(f"the directory {source} holds no text: files ending in {', '.join(SUFFIXES)} are read")
        return [piece for file in files for piece in _file(file)]
    if path.exists():
        return _file(path)
    raise InputError(
        f"there is no file and no corpus {source}: give the path of a text, or a name ({nearest(source, NAMED)})"
    )


def _file(path: Path) -> list[tuple[str, bytes]]:
    try:
        if path.suffix.lower() == ".gz":
            with gzip.open(path) as file:
                return [(str(path), file.read())]
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                names = sorted(n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX"))
                return [(f"{path}:{name}", archive.read(name)) for name in names]
        return [(str(path), path.read_bytes())]
    except (
        gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError,
        UnicodeDecodeError,
    ) as error:  # fmt: skip
        raise InputError(f"{path} cannot be unpacked ({error}): unpack it yourself, or replace it") from None
    except OSError as error:
        if error.errno is None:  # bz2
            raise InputError(f"{path} cannot be unpacked ({error}): unpack it yourself, or replace it") from None
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from None
