"""A text as token ids, split into a training part and a held-out part."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headgate import __version__
from headgate.errors import InputError
from headgate.settings.run import TextSettings
from headgate.text import prepared_corpus
from headgate.text.catalogue import NAMED
from headgate.text.characters import ByteTokenizer, CharacterTokenizer
from headgate.text.sources import PASSAGE, Passage, fits_memory, whole
from headgate.text.stored_ids import Ids
from headgate.text.subwords import SubwordTokenizer
from headgate.text.tokenizer import DocumentTokenizer, Tokenizer
from headgate.text.words import WordTokenizer

Each = Callable[[Callable[[str], Any], Iterable[str]], Iterable[Any]]  # like the built-in map


@dataclass(frozen=True)
class Corpus:
    """A text as ids, split into a training part and a held-out part, with the tokenizer that made them."""

    training: Ids
    held_out: Ids
    tokenizer: Tokenizer
    characters: int  # of the whole text
    beginning: str  # its first characters, for samples
    sha256: str  # of the text, so that a continued run can check that it is the same

    @property
    def characters_per_token(self) -> float:
        return self.characters / (len(self.training) + len(self.held_out))


def load(settings: TextSettings, *, data_dir: Path | None = None, share: tuple[int, int] = (0, 1)) -> Corpus:
    """Read, normalize, tokenize and split a text as ``settings`` say, or open and check a prepared corpus.

    The vocabulary is that of the whole text; the held-out part is its end. ``share``: see ``PreparedCorpus.open``.
    Raises InputError for a text that cannot be read, and for a held-out part of fewer than two tokens.
    """
    if is_stored(settings):
        stored = prepared_corpus.PreparedCorpus.open(Path(settings.corpus), share=share)
        ids: Ids = stored.ids
        tokenizer, characters, beginning, sha256 = stored.tokenizer, stored.characters, stored.beginning, stored.sha256
    else:
        text = whole(settings, data_dir=data_dir)
        characters = sum(len(passage.text) for passage in text)
        if not characters:
            raise InputError(f"the corpus {settings.corpus} is empty: give a text of at least two characters")
        with fits_memory(settings.corpus):
            tokenizer = tokenizer_for(settings, [passage.text for passage in text])
            ids, beginning, sha256 = encode(tokenizer, text), beginning_of(text), checksum(tokenizer, text)
    cut = len(ids) - round(len(ids) * settings.validation_fraction)
    if settings.validation_fraction and len(ids) - cut < 2:
        raise InputError(
            f"the held-out part would have {len(ids) - cut} of {len(ids)} tokens, but needs at least 2: "
            "give more text, a larger --validation-fraction, or --validation-fraction 0"
        )
    return Corpus(ids[:cut], ids[cut:], tokenizer, characters, beginning, sha256)


def another_text(settings: TextSettings, run: Path, version: str) -> str:
    """Return the message for ``settings`` whose text or vocabulary is not the one that ``run`` was trained on.

    ``version`` is the version of headgate that began the run.
    """
    corpus = NAMED.get(settings.corpus)
    if corpus is None or corpus.addresses:
        return (
            f"{settings.corpus} is not the text that {run} was trained on, or gives another vocabulary: continue with "
            "that text, or start another run with --out"
        )
    return (
        f"the bundled text {settings.corpus} is not the one that {run} was trained on (by headgate {version}; this is "
        f"{__version__}), because bundled texts change between versions: give the path of the old text, "
        f"{corpus.file} in the corpora of that version, as CORPUS, or start another run with --out"
    )


def is_stored(settings: TextSettings) -> bool:
    """Return True if the corpus is a prepared one."""
    return settings.corpus not in NAMED and prepared_corpus.is_prepared(settings.corpus)


def tokenizer_for(settings: TextSettings, texts: Iterable[str], *, each: Each = map) -> Tokenizer:
    """Make the tokenizer for a text given in pieces. ``each`` maps over them to count, perhaps in other processes."""
    tokenizer: Tokenizer
    if settings.tokenizer == "bytes":
        tokenizer = ByteTokenizer()
    elif settings.tokenizer == "subwords":
        tokenizer = SubwordTokenizer.train(texts, settings.vocab_size)
    elif settings.tokenizer == "words":
        counts = _sum(each(WordTokenizer.count, _together(texts, " ")))
        tokenizer = WordTokenizer.from_counts(counts, min_frequency=settings.min_frequency)
    else:
        counts = _sum(each(CharacterTokenizer.count, _together(texts, "")))
        tokenizer = CharacterTokenizer.from_counts(
            counts, min_frequency=settings.min_frequency, unknown=settings.unknown
        )
    return tokenizer if settings.documents == "one" else DocumentTokenizer(tokenizer)


def _together(texts: Iterable[str], between: str) -> Iterator[str]:
    """Join short texts into ones of at least PASSAGE characters, apart from the last."""
    held: list[str] = []
    length = 0
    for text in texts:
        held.append(text)
        length += len(text)
        if length >= PASSAGE:
            yield between.join(held)
            held, length = [], 0
    yield between.join(held)


def _sum(counters: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def encode(tokenizer: Tokenizer, text: Iterable[Passage]) -> np.ndarray:
    """Return the ids of passages, int32 (tokens,), with the tokenizer's document_id, if any, before each document."""
    pieces = [np.empty(0, np.int32)]
    for passage in text:
        if passage.begins and tokenizer.document_id is not None:
            pieces.append(np.array([tokenizer.document_id], np.int32))
        pieces.append(tokenizer.encode(passage.text))
    return np.concatenate(pieces)


def beginning_of(text: Iterable[Passage]) -> str:
    """Return the first 200 characters of the first document, with invalid bytes replaced."""
    start = ""
    for passage in text:
        if len(start) >= 200 or (start and passage.begins):
            break
        start += passage.text
    return start[:200].encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def checksum(tokenizer: Tokenizer, text: Iterable[Passage]) -> str:
    """Return the SHA-256 of a text, including the beginnings of its documents."""
    digest = hashlib.sha256()
    for passage in text:
        if passage.begins and tokenizer.document_id is not None:
            digest.update(b"\xff")  # no UTF-8 text contains this byte
        digest.update(passage.text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
