"""Pieces of words as ids: byte-pair encoding, learnt from a text. The library tokenizers learns and applies it.

Without that library the module can be imported and not much else: it is the extra ``bpe``.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from headgate.errors import InputError, not_installed

SMALLEST, LARGEST = 257, 1 << 20  # vocabularies that can be trained: the bytes and at least one pair

_BLOCK = 1 << 18  # characters encoded at once
_REMEMBERED = 1 << 18  # pieces whose ids are kept while a text is encoded
_LONGEST = 1 << 10  # characters of a word that is learned from; each merge costs the trainer the word's length
_SPACE = "\t\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode's, but for the line break
# No subword reaches over a line break or over the end of a word, so a text may be cut behind either.
_PIECE = re.compile(f"[{_SPACE}]*[^{_SPACE}\n]*\n?")
_CUT = re.compile(f"(?<=\n)|(?<=[^{_SPACE}\n])(?=[{_SPACE}])")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Whatever the library takes for a word is letters and digits, or neither, or whitespace.
_LONG = re.compile(rf"[^\W_]{{{_LONGEST}}}|(?:[^\w\s]|_){{{_LONGEST}}}")
_LONG_SPACE = re.compile(rf"\s{{{_LONGEST}}}")

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_AROUND = {  # the library's description of everything but the model
    "version": "1.0",
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"String": "\n"}, "behavior": "MergedWithPrevious", "invert": False},
            _BYTE_LEVEL,
        ],
    },
    "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},  # means nothing there
}


def _byte_symbols() -> list[str]:
    """The visible character that stands for each byte: itself, or one behind Latin-1 where it is none."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


_BYTES = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}


class SubwordTokenizer:
    """Byte-level byte-pair encoding: the 256 bytes, and pairs of what came before, joined one after the other.

    Nothing is unknown and any text comes back as it was; only lone surrogates, which are no text, come back as the
    replacement character. No id reaches over a line break: the pieces of a text that is cut behind line breaks have,
    one after the other, the ids of the whole. ``to_json`` is what the library itself writes, which
    ``tokenizers.Tokenizer.from_file`` reads. Encoding uses one thread, so a process may fork after it; training uses
    the library's threads.
    """

    special_ids: ClassVar[list[int]] = []
    document_id: ClassVar[int | None] = None

    def __init__(self, vocabulary: Sequence[str], merges: Sequence[tuple[str, str]]) -> None:
        """``vocabulary``: symbols in the order of their ids, each byte a character as ``tokenizers`` writes it.

        ``merges``: pairs of them that are joined, the first ones first. Raises InputError where one is not in the
        vocabulary, a byte is missing, or a symbol comes twice or holds a character that stands for no byte.
        """
        known = {symbol: i for i, symbol in enumerate(vocabulary)}
        if len(known) != len(vocabulary) or not known.keys() >= _BYTES.keys():
            raise InputError("the vocabulary of subwords must have all 256 bytes, and nothing twice")
        if not all(symbol and set(symbol) <= _BYTES.keys() for symbol in known):
            raise InputError("a subword of the vocabulary holds what stands for no byte")
        if not all(left in known and right in known and left + right in known for left, right in merges):
            raise InputError("a merge joins subwords that are not in the vocabulary")
        self._take(_tokenizer(library().models.BPE(vocab=known, merges=list(merges))))

    def _take(self, tokenizer: Any) -> None:
        vocabulary = tokenizer.get_vocab()
        self._tokenizer = tokenizer
        self._bytes = [bytes(_BYTES[c] for c in symbol) for symbol in sorted(vocabulary, key=vocabulary.__getitem__)]

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int) -> "SubwordTokenizer":
        """Learn so many subwords from texts, each of which ends behind a line break, or is a whole one.

        The same texts give the same subwords, with any number of threads. A pair that occurs once is not joined. A word
        of more than 1,024 characters, as in a text without spaces, is learned from in parts.
        Raises InputError where ``vocabulary_size`` cannot be, or the texts have not enough pairs for it.
        """
        if not SMALLEST <= vocabulary_size <= LARGEST:
            raise InputError(
                f"a vocabulary of subwords must have from {SMALLEST} to {LARGEST}, got {vocabulary_size}: "
                "change --vocab-size"
            )
        tokenizer = _tokenizer(library().models.BPE())
        trainer = library().trainers.BpeTrainer(
            vocab_size=vocabulary_size, min_frequency=2, show_progress=False, initial_alphabet=sorted(_BYTES)
        )
        tokenizer.train_from_iterator(_learnable(texts, tokenizer.pre_tokenizer), trainer)
        found = tokenizer.get_vocab_size()
        if found < vocabulary_size:
            raise InputError(
                f"the text has pairs for a vocabulary of {found} subwords, not for {vocabulary_size}: "
                f"lower --vocab-size to at most {found}, or give more text"
            )
        trained = cls.__new__(cls)
        trained._take(tokenizer)
        return trained

    @property
    def vocabulary_size(self) -> int:
        return len(self._bytes)

    def encode(self, text: str) -> np.ndarray:
        """Ids of ``text``, int32, shape (tokens,)."""
        # A word comes again and again: looking it up is several times as fast as encoding it once more.
        known: dict[str, bytes] = {}
        blocks = []
        for block in _blocks(_clean(text), _BLOCK):
            pieces = _PIECE.findall(block)
            if len(known) > _REMEMBERED:
                known.clear()
            for piece in set(pieces) - known.keys():
                known[piece] = np.array(self._tokenizer.encode(piece).ids, np.int32).tobytes()
            blocks.append(b"".join(map(known.__getitem__, pieces)))
        return np.frombuffer(bytearray(b"".join(blocks)), np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self._bytes[i] for i in ids).decode("utf-8", "replace")

    def out_of_vocabulary(self, text: str) -> list[str]:
        return []

    def stream_decoder(self, after: str = "") -> Callable[[int | None], str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # holds back half a character
        return lambda i: decoder.decode(b"", True) if i is None else decoder.decode(self._bytes[i])

    def to_json(self) -> dict[str, Any]:
        description: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return description

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "SubwordTokenizer":
        """What ``to_json`` described. Raises InputError for anything else, also for other tokenizers of the library."""
        model = description.get("model")
        if not isinstance(model, dict) or model.get("type") != "BPE":
            raise InputError("the model must be byte-pair encoding (BPE)")
        # What is null, false or empty says that something is not there, whatever it is.
        options = [k for k, v in model.items() if v and k not in ("type", "vocab", "merges")]
        options += [k for k in description.keys() | _AROUND.keys() if k != "model"
                    and (description.get(k) or None) != _AROUND.get(k)]  # fmt: skip
        if options:
            raise InputError(
                f"only what headgate itself wrote can be read, this differs in {', '.join(sorted(options))}"
            )
        vocabulary, merges = model.get("vocab"), model.get("merges")
        if not isinstance(vocabulary, dict) or not all(type(i) is int for i in vocabulary.values()):
            raise InputError("the vocabulary is missing or damaged")
        symbols = sorted(vocabulary, key=vocabulary.__getitem__)
        if [vocabulary[symbol] for symbol in symbols] != list(range(len(symbols))):
            raise InputError("the ids of the vocabulary must be 0, 1, 2 and so on")
        if not isinstance(merges, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(symbol, str) for symbol in pair)
            for pair in merges
        ):
            raise InputError("the list of merges is missing or damaged")
        return cls(symbols, [(left, right) for left, right in merges])


def library() -> ModuleType:
    """The package tokenizers. Raises InputError that says how to install it where it is missing."""
    try:
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers  # noqa: F401 - loads them
    except ModuleNotFoundError as error:
        if error.name != "tokenizers":
            raise
        raise InputError(not_installed("byte-pair encoding", "tokenizers")) from None
    return tokenizers


def _tokenizer(model: Any) -> Any:
    """The library's tokenizer around a model; ``_AROUND`` is how it describes it."""
    package = library()
    tokenizer = package.Tokenizer(model)
    tokenizer.pre_tokenizer = package.pre_tokenizers.Sequence([
        package.pre_tokenizers.Split("\n", "merged_with_previous"),
        package.pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    tokenizer.decoder = package.decoders.ByteLevel()
    return tokenizer


def _learnable(texts: Iterable[str], pre_tokenizer: Any) -> Iterator[str]:
    """The texts in blocks, cut so that no word of them has more than ``_LONGEST`` characters."""
    for text in texts:
        for block in _blocks(_clean(text), 1 << 14):
            # Three looks, each a good deal more expensive than the one before: most texts need the first alone.
            run = max(map(len, block.split()), default=0)
            if (run >= _LONGEST and _LONG.search(block)) or _LONG_SPACE.search(block):
                yield from _bounded(block, pre_tokenizer)
            else:
                yield block


def _bounded(block: str, pre_tokenizer: Any) -> Iterator[str]:
    """A block cut around its long words, and these every ``_LONGEST`` characters."""
    done = 0
    for _, (start, end) in pre_tokenizer.pre_tokenize_str(block):
        if end - start > _LONGEST:
            if done < start:
                yield block[done:start]
            yield from (block[i : min(i + _LONGEST, end)] for i in range(start, end, _LONGEST))
            done = end
    if done < len(block):
        yield block[done:]


def _clean(text: str) -> str:
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def _blocks(text: str, size: int) -> Iterator[str]:
    """A text cut where no subword is, behind ``size`` characters or some more."""
    start = 0
    while start < len(text):
        cut = _CUT.search(text, start + size)
        end = cut.start() if cut else len(text)
        yield text[start:end]
        start = end
