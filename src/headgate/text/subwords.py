"""Subwords as ids: byte-pair encoding, learnt from a text and applied by the library tokenizers.

The library is the extra ``bpe``. This module can be imported without it, but hardly used.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from headgate.errors import InputError, not_installed

SMALLEST, LARGEST = 257, 1 << 20  # sizes of vocabularies that can be trained: the bytes and at least one pair

_BLOCK = 1 << 18  # characters encoded at once
_REMEMBERED = 1 << 18  # pieces whose ids are kept while a text is encoded
_LONGEST = 1 << 10  # characters of a word in training; the cost of each merge grows with the word's length
_SPACE = "\t\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode's, without the line break
# No subword extends past a line break or the end of a word, so a text may be cut after either.
_PIECE = re.compile(f"[{_SPACE}]*[^{_SPACE}\n]*\n?")
_CUT = re.compile(f"(?<=\n)|(?<=[^{_SPACE}\n])(?=[{_SPACE}])")
_SURROGATE = re.compile("[\ud800-\udfff]")
# A word, as the library splits a text, has either letters and digits, or neither of them, or whitespace.
_LONG = re.compile(rf"[^\W_]{{{_LONGEST}}}|(?:[^\w\s]|_){{{_LONGEST}}}")
_LONG_SPACE = re.compile(rf"\s{{{_LONGEST}}}")

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_AROUND = {  # everything but the model in the library's JSON
    "version": "1.0",
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"String": "\n"}, "behavior": "MergedWithPrevious", "invert": False},
            _BYTE_LEVEL,
        ],
    },
    "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},  # decoding ignores add_prefix_space
}


def _byte_symbols() -> list[str]:
    """Return the visible character for each byte: its Latin-1 character or, if that is invisible, one after Latin-1."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


_BYTES = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}


class SubwordTokenizer:
    """Byte-level byte-pair encoding: the 256 bytes, and subwords that each join two earlier ones.

    Nothing is unknown, and decoding restores any text, except that lone surrogates, which are not characters, become
    the replacement character. No subword extends past a line break: if a text is cut after line breaks, the ids of its
    pieces, concatenated, are the ids of the whole. ``to_json`` returns the library's own format, which
    ``tokenizers.Tokenizer.from_file`` reads. Encoding uses one thread, so a process may fork after it; training uses
    the library's threads.
    """

    special_ids: ClassVar[list[int]] = []
    document_id: ClassVar[int | None] = None

    def __init__(self, vocabulary: Sequence[str], merges: Sequence[tuple[str, str]]) -> None:
        """``vocabulary``: symbols in the order of their ids, one character per byte, as ``tokenizers`` writes them.

        ``merges``: pairs of symbols to join, in this order. Raises InputError if a merge is not in the vocabulary, a
        byte is missing, a symbol is repeated, or one contains a character that does not represent a byte.
        """
        known = {symbol: i for i, symbol in enumerate(vocabulary)}
        if len(known) != len(vocabulary) or not known.keys() >= _BYTES.keys():
            raise InputError("the vocabulary of subwords must have all 256 bytes, and each subword only once")
        if not all(symbol and set(symbol) <= _BYTES.keys() for symbol in known):
            raise InputError("a subword of the vocabulary contains a character that does not represent a byte")
        if not all(left in known and right in known and left + right in known for left, right in merges):
            raise InputError("a merge joins subwords that are not in the vocabulary")
        self._take(_tokenizer(library().models.BPE(vocab=known, merges=list(merges))))

    def _take(self, tokenizer: Any) -> None:
        vocabulary = tokenizer.get_vocab()
        self._tokenizer = tokenizer
        self._bytes = [bytes(_BYTES[c] for c in symbol) for symbol in sorted(vocabulary, key=vocabulary.__getitem__)]

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int) -> "SubwordTokenizer":
        """Learn a vocabulary of ``vocabulary_size`` subwords from texts, or from pieces cut after line breaks.

        The same texts give the same subwords, with any number of threads. A pair that occurs only once is not joined.
        A word of more than 1,024 characters, as in a text without spaces, is cut into parts of that length.
        Raises InputError if ``vocabulary_size`` is out of range or the texts have too few pairs for it.
        """
        if not SMALLEST <= vocabulary_size <= LARGEST:
            raise InputError(
                f"a vocabulary must have from {SMALLEST} to {LARGEST} subwords, got {vocabulary_size}: "
                "change --vocab-size"
            )
        tokenizer = _tokenizer(library().models.BPE())
        trainer = library().trainers.BpeTrainer(
            vocab_size=vocabulary_size, min_frequency=2, show_progress=False, initial_alphabet=sorted(_BYTES)
        )
        tokenizer.train_from_iterator(_learnable(texts, tokenizer.pre_tokenizer), trainer)
        size = tokenizer.get_vocab_size()
        if size < vocabulary_size:
            raise InputError(
                f"the text has enough pairs for a vocabulary of {size} subwords, not of {vocabulary_size}: "
                f"lower --vocab-size to at most {size}, or give more text"
            )
        trained = cls.__new__(cls)
        trained._take(tokenizer)
        return trained

    @property
    def vocabulary_size(self) -> int:
        return len(self._bytes)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of ``text``, int32, shape (tokens,)."""
        # Words recur: looking one up is several times as fast as encoding it again.
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
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # keeps an incomplete character back
        return lambda i: decoder.decode(b"", True) if i is None else decoder.decode(self._bytes[i])

    def to_json(self) -> dict[str, Any]:
        description: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return description

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "SubwordTokenizer":
        """Restore the tokenizer that ``to_json`` described. Raises InputError for others of the library."""
        model = description.get("model")
        if not isinstance(model, dict) or model.get("type") != "BPE":
            raise InputError("the model must be byte-pair encoding (BPE)")
        # A value that is null, false or empty only says that an option is not used.
        options = [k for k, v in model.items() if v and k not in ("type", "vocab", "merges")]
        options += [
            k
            for k in description.keys() | _AROUND.keys()
            if k != "model" and (description.get(k) or None) != _AROUND.get(k)
        ]
        if options:
            raise InputError(
                f"only tokenizers that headgate wrote can be read, but this one differs in {', '.join(sorted(options))}"
            )
        vocabulary, merges = model.get("vocab"), model.get("merges")
        if not isinstance(vocabulary, dict) or not all(type(i) is int for i in vocabulary.values()):
            raise InputError("the vocabulary is missing or damaged")
        symbols = sorted(vocabulary, key=vocabulary.__getitem__)
        if [vocabulary[symbol] for symbol in symbols] != list(range(len(symbols))):
            raise InputError("the ids of the vocabulary must be 0, 1, 2, ...")
        if not isinstance(merges, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(symbol, str) for symbol in pair)
            for pair in merges
        ):
            raise InputError("the list of merges is missing or damaged")
        return cls(symbols, [(left, right) for left, right in merges])


def library() -> ModuleType:
    """Import the package tokenizers. Raises InputError that says how to install it if it is missing."""
    try:
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers  # noqa: F401 - imported for their side effect, as attributes of tokenizers
    except ModuleNotFoundError as error:
        if error.name != "tokenizers":
            raise
        raise InputError(not_installed("byte-pair encoding", "tokenizers")) from None
    return tokenizers


def _tokenizer(model: Any) -> Any:
    """Make the library's tokenizer around a model; ``_AROUND`` is its description."""
    package = library()
    tokenizer = package.Tokenizer(model)
    tokenizer.pre_tokenizer = package.pre_tokenizers.Sequence(
        [
            package.pre_tokenizers.Split("\n", "merged_with_previous"),
            package.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = package.decoders.ByteLevel()
    return tokenizer


def _learnable(texts: Iterable[str], pre_tokenizer: Any) -> Iterator[str]:
    """Yield the texts in blocks, cut so that no word has more than ``_LONGEST`` characters."""
    for text in texts:
        for block in _blocks(_clean(text), 1 << 14):
            # The cheapest check comes first; most texts need only the first and the last.
            run = max(map(len, block.split()), default=0)
            if (run >= _LONGEST and _LONG.search(block)) or _LONG_SPACE.search(block):
                yield from _bounded(block, pre_tokenizer)
            else:
                yield block


def _bounded(block: str, pre_tokenizer: Any) -> Iterator[str]:
    """Cut a block around its long words, and these after every ``_LONGEST`` characters."""
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
    """Cut a text into blocks of at least ``size`` characters, except the last, where no subword is cut."""
    start = 0
    while start < len(text):
        cut = _CUT.search(text, start + size)
        end = cut.start() if cut else len(text)
        yield text[start:end]
        start = end
