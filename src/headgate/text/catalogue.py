"""The named corpora: bundled with the package, or downloaded once and cached."""

import hashlib
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from headgate.errors import InputError
from headgate.storage.files import file_sha256, write_whole
from headgate.text.archives import explained

TIMEOUT = 20.0  # seconds without an answer


@dataclass(frozen=True)
class NamedCorpus:
    """A named text: bundled with the package if it has no addresses, otherwise downloaded once and cached."""

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


def locate(corpus: NamedCorpus, *, data_dir: Path | None = None) -> Path | None:
    """Return the path of a named corpus that is bundled, in the data directory or in the cache; otherwise None."""
    if not corpus.addresses:
        return Path(str(resources.files(__package__) / "corpora" / corpus.file))
    for directory in (_given(data_dir), _cache()):
        if directory and (directory / corpus.file).is_file():
            return directory / corpus.file
    return None


def _given(data_dir: Path | None) -> Path | None:
    """Return the directory for downloaded corpora that the user named, if any."""
    return data_dir or (Path(os.environ["HEADGATE_DATA"]) if os.environ.get("HEADGATE_DATA") else None)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headgate"


def fetched(corpus: NamedCorpus, data_dir: Path | None) -> Path:
    """Return the path of a named corpus, downloading it if it is not on this machine, and verify its checksum."""
    directory = _given(data_dir) if corpus.addresses else None
    if directory is not None and not directory.is_dir():
        by = "--data-dir" if data_dir else "HEADGATE_DATA"
        raise InputError(
            f"{directory} is not a directory, but {by} says that {corpus.file} is in it: correct {by}, or omit it to "
            "download the corpus"
        )
    file = locate(corpus, data_dir=data_dir)
    if file is None:
        try:
            return _download(corpus, _cache() / corpus.file)
        except InputError as error:
            raise InputError(f"{directory} has no {corpus.file}, {error}" if directory else str(error)) from None
    if corpus.sha256:
        with explained(file):
            actual = file_sha256(file)
        if actual != corpus.sha256:
            raise InputError(
                f"{file} is not the {corpus.name} corpus (its SHA-256 is {actual}, that of the corpus is "
                f"{corpus.sha256}): replace or remove the file"
            )
    return file


def _download(corpus: NamedCorpus, target: Path) -> Path:
    """Download a corpus from the first address that has it. Raises InputError with the reason of every address."""
    from http.client import HTTPException  # here, because these two imports are slow
    from urllib.request import urlopen

    reasons = []
    for address in corpus.addresses:
        try:
            with urlopen(address, timeout=TIMEOUT) as response:
                content = response.read()
        except (OSError, HTTPException) as error:  # URLError, timeouts and broken connections are OSErrors
            reasons.append(f"{address}: {getattr(error, 'reason', '') or error}")
            continue
        if hashlib.sha256(content).hexdigest() == corpus.sha256:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, content)
            return target
        reasons.append(f"{address}: its content has another checksum")
    raise InputError(
        f"could not download {corpus.file} ({'; '.join(reasons)}): put the file into a directory and name the "
        "directory with --data-dir or HEADGATE_DATA"
    )
