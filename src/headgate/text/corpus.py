"""A text as token ids: the part to train on, and the part held out."""

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
from headgate.text.sources import PASSAGE, Passage, fits_memory, whole
from headgate.text.stored_ids import Ids
from headgate.text.subwords import SubwordTokenizer
from headgate.text.tokenizer import ByteTokenizer, CharacterTokenizer, DocumentTokenizer, Tokenizer
from headgate.text.words import WordTokenizer

Each = Callable[[Callable[[str], Any], Iterable[str]], Iterable[Any]]  # as the built-in map


@dataclass(frozen=True)
class Corpus:
    """A text as ids: the part to train on and the part held out, with the tokenizer that made them."""

    training: Ids
    held_out: Ids
    tokenizer: Tokenizer
    characters: int  # of the whole text
    beginning: str  # its first characters, for samples
    sha256: str  # of the text, so that a continued run can tell that it is the same

    @property
    def characters_per_token(self) -> float:
        return self.characters / (len(self.training) + len(self.held_out))


def load(settings: TextSettings, *, data_dir: Path | None = None, share: tuple[int, int] = (0, 1)) -> Corpus:
    """Read, normalize, tokenize and split a text as ``settings`` say; or open a prepared one, made with such settings,
    and check it, or a ``share`` of it (see there).

    The vocabulary is that of the whole text; the held-out part is its end. Raises InputError for what cannot be read.
    """
    if is_stored(settings):
        stored = prepared_corpus.PreparedCorpus.open(Path(settings.corpus), share=share)
        ids: Ids = stored.ids
        tokenizer, characters, beginning, sha256 = stored.tokenizer, stored.characters, stored.beginning, stored.sha256
    else:
        text = whole(settings, data_dir=data_dir)
        characters = sum(len(passage.text) for passage in text)
        if not characters:
            raise InputError(f"the corpus {settings.corpus} is empty: a text of at least two characters is needed")
        with fits_memory(settings.corpus):
            tokenizer = tokenizer_for(settings, [passage.text for passage in text])
            ids, beginning, sha256 = encode(tokenizer, text), beginning_of(text), checksum(tokenizer, text)
    cut = len(ids) - round(len(ids) * settings.validation_fraction)
    if settings.validation_fraction and len(ids) - cut < 2:
        raise InputError(
            f"the held-out part would have {len(ids) - cut} of {len(ids)} tokens, at least 2 are needed: "
            "give more text, a larger --validation-fraction, or --validation-fraction 0"
        )
    return Corpus(ids[:cut], ids[cut:], tokenizer, characters, beginning, sha256)


def another_text(settings: TextSettings, run: Path, version: str) -> str:
    """The sentence to say where ``settings`` give another text, or vocabulary, than ``run`` was trained on, which
    ``version`` of headgate began."""
    corpus = NAMED.get(settings.corpus)
    if corpus is None or corpus.addresses:
        return (
            f"{settings.corpus} is not the text, or gives not the vocabulary, that {run} was trained on: continue with "
            "that text, or start another run with --out"
        )
    return (
        f"the bundled text {settings.corpus} is not the one that {run} was trained on (by headgate {version}; this is "
        f"{__version__}), because bundled texts change between versions: give the path of the old text, "
        f"{corpus.file} in the corpora of that version, as CORPUS, or start another run with --out"
    )


def is_stored(settings: TextSettings) -> bool:
    """Whether the corpus is a prepared one."""
    return settings.corpus not in NAMED and prepared_corpus.is_prepared(settings.corpus)


def tokenizer_for(settings: TextSettings, texts: Iterable[str], *, each: Each = map) -> Tokenizer:
    """The tokenizer of a text in pieces; ``each`` is a map that counts what is in them, perhaps in other processes."""
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
    """Short texts put together to some PASSAGE characters."""
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
    """The ids of passages, int32 (tokens,): the document_id before each document, where the tokenizer has one."""
    pieces = [np.empty(0, np.int32)]
    for passage in text:
        if passage.begins and tokenizer.document_id is not None:
            pieces.append(np.array([tokenizer.document_id], np.int32))
        pieces.append(tokenizer.encode(passage.text))
    return np.concatenate(pieces)


def beginning_of(text: Iterable[Passage]) -> str:
    """The first 200 characters of its first document; bytes that are no text are replaced."""
    start = ""
    for passage in text:
        if len(start) >= 200 or (start and passage.begins):
            break
        start += passage.text
    return start[:200].encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def checksum(tokenizer: Tokenizer, text: Iterable[Passage]) -> str:
    """The SHA-256 of a text, and of where documents begin in it."""
    digest = hashlib.sha256()
    for passage in text:
        if passage.begins and tokenizer.document_id is not None:
            digest.update(b"\xff")  # in no text
        digest.update(passage.text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
