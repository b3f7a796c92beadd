"""Byte-pair encoding: any text survives a round trip, training is reproducible, damaged JSON is refused."""

import copy
import hashlib
import json
import os
import pickle
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError
from headgate.text import subwords
from headgate.text.catalogue import NAMED, locate
from headgate.text.subwords import SubwordTokenizer
from headgate.text.tokenizer import from_json

tokenizers = pytest.importorskip("tokenizers")

thorough = settings(deadline=None, max_examples=150)
TEXT = "to be or not to be\nthat is the question: to be\n分开 分开不 é\n  to   be\t or\r\n" * 5
any_text = st.text(st.characters(codec="utf-8"), max_size=40)
spaces = st.text(st.sampled_from("ab'st1 é分\u0300!.\n\n\t   \r\x1c\x85\xa0\u200b\u2028\u3000\u180e"), max_size=30)
TRAIN = """
import hashlib, json, sys
from headgate.text.catalogue import NAMED, locate
from headgate.text.subwords import SubwordTokenizer
texts = [locate(NAMED[name]).read_text("utf-8") for name in ("voyage", "verses")]
described = json.dumps(SubwordTokenizer.train(texts, 900).to_json(), sort_keys=True)
print(hashlib.sha256(described.encode()).hexdigest())
"""


@cache
def small() -> SubwordTokenizer:
    return SubwordTokenizer.train([TEXT], 290)


def test_the_bytes_come_first_then_the_pairs():
    tokenizer = small()
    assert (tokenizer.vocabulary_size, tokenizer.special_ids, tokenizer.document_id) == (290, [], None)
    assert sorted(tokenizer.decode([i]) for i in range(256) if tokenizer.decode([i]).isascii()) == sorted(
        map(chr, range(128))
    )
    ids = tokenizer.encode("to be\n")
    assert ids.dtype == np.int32
    assert len(ids) < 6
    assert max(ids) >= 256
    assert tokenizer.out_of_vocabulary("never seen") == []


@thorough
@given(text=any_text | spaces)
def test_any_text_survives_a_round_trip_whole_and_id_by_id(text):
    tokenizer = small()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    write = tokenizer.stream_decoder("before")
    assert "".join(write(int(i)) for i in ids) + write(None) == text


@thorough
@given(ids=st.lists(st.integers(0, 289), max_size=20))
def test_a_stream_decoder_equals_decode(ids):
    write = small().stream_decoder()
    assert "".join(map(write, [*ids, None])) == small().decode(ids)


@thorough
@given(text=any_text | spaces, size=st.integers(1, 5))
def test_ids_equal_the_library_s_however_the_text_is_cut(text, size):
    whole = tokenizers.Tokenizer.from_str(json.dumps(small().to_json())).encode(text).ids
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subwords, "_BLOCK", size)
        patch.setattr(subwords, "_REMEMBERED", size)
        assert small().encode(text).tolist() == whole


@thorough
@given(lines=st.lists(spaces, min_size=1, max_size=5))
def test_ids_of_lines_concatenate_to_those_of_the_text(lines):
    lines = [line + "\n" for line in lines]
    assert [i for line in lines for i in small().encode(line)] == small().encode("".join(lines)).tolist()


def test_half_a_character_is_held_back():
    alone = {small()._bytes[i]: i for i in range(256)}
    first, second = (alone[bytes([byte])] for byte in "é".encode())
    write = small().stream_decoder()
    assert (write(first), write(second), write(first), write(None)) == ("", "é", "", "\ufffd")


@pytest.mark.parametrize("text", ["a\ud800b", "\udcff", "\ud83d\ude00"])
def test_lone_surrogates_are_replaced(text):
    expected = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    assert small().decode(small().encode(text)) == expected
    assert SubwordTokenizer.train([text + TEXT], 290).vocabulary_size == 290


@pytest.mark.parametrize("threads", [{"RAYON_NUM_THREADS": "1"}, {"TOKENIZERS_PARALLELISM": "false"}, {}])
def test_training_is_the_same_in_any_process_with_any_threads(threads):
    texts = [locate(NAMED[name]).read_text("utf-8") for name in ("voyage", "verses")]
    here = SubwordTokenizer.train(iter(texts), 900).to_json()
    environment = {k: v for k, v in os.environ.items() if k not in ("RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM")}
    ran = subprocess.run([sys.executable, "-c", TRAIN], env=environment | threads, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.strip() == hashlib.sha256(json.dumps(here, sort_keys=True).encode()).hexdigest()


@thorough
@given(text=spaces, size=st.integers(257, 262))
def test_training_is_repeatable(text, size):
    def train() -> str:
        try:
            return json.dumps(SubwordTokenizer.train([text * 3], size).to_json())
        except InputError as error:
            return str(error)

    assert train() == train()


def handed_over(texts, monkeypatch):
    """Return what the library's trainer receives of ``texts``, and the lengths of its words."""
    received = []

    class Recording:
        def __init__(self, model, make=subwords._tokenizer):
            self.inner = make(model)

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def train_from_iterator(self, iterator, trainer):
            received.extend(iterator)

    monkeypatch.setattr(subwords, "_tokenizer", Recording)
    with pytest.raises(InputError, match="not of 290"):  # because the trainer learned nothing
        SubwordTokenizer.train(texts, 290)
    monkeypatch.undo()
    split = small()._tokenizer.pre_tokenizer.pre_tokenize_str
    return received, [end - start for text in received for _, (start, end) in split(text)]


@pytest.mark.parametrize(
    "text",
    [
        "天地玄黄宇宙洪荒" * 5_000,
        "x" * 50_000 + " " + "ab" * 25_000,
        "0123456789" * 5_000,
        "-=" * 20_000,
        "\t " * 20_000,
    ],
    ids=["chinese", "letters", "digits", "signs", "spaces"],
)
def test_long_words_are_cut_for_training(text, monkeypatch):
    """The cost of each merge grows with the length of the word, so time would grow with its square."""
    texts = [text + "\n", TEXT, text]
    given, lengths = handed_over(texts, monkeypatch)
    assert "".join(given) == "".join(texts)
    assert max(lengths) == 1_024


def test_words_of_ordinary_length_are_not_cut_for_training(monkeypatch):
    """A line without spaces but with punctuation has many words, and is passed on uncut."""
    line = "天地玄黄，" * 1_000 + "ab1" * 1_000 + "\n"
    given, lengths = handed_over([line], monkeypatch)
    assert given == [line]
    assert max(lengths) == 4


def test_a_text_without_spaces_survives_a_round_trip():
    text = "天地玄黄宇宙洪荒" * 1_000
    tokenizer = SubwordTokenizer.train([text], 275)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert from_json(json.dumps(tokenizer.to_json())).encode(text).tolist() == tokenizer.encode(text).tolist()


@pytest.mark.parametrize("size", [0, -1, 256, (1 << 20) + 1])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(InputError, match=rf"from 257 to 1048576 subwords, got {size}: change --vocab-size$"):
        SubwordTokenizer.train([TEXT], size)


def test_too_few_pairs_report_the_largest_vocabulary():
    message = (
        r"^the text has enough pairs for a vocabulary of 257 subwords, not of 300: lower --vocab-size to at most 257"
    )
    with pytest.raises(InputError, match=message):
        SubwordTokenizer.train(["ab ab"], 300)
    assert SubwordTokenizer.train(["ab ab"], 257).decode([256]) == "ab"


def test_errors_of_the_texts_are_not_hidden():
    def texts():
        yield TEXT
        raise InputError("the second file is damaged")

    with pytest.raises(InputError, match="the second file is damaged"):
        SubwordTokenizer.train(texts(), 290)


def test_json_is_the_library_s_own(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(json.dumps(small().to_json(), ensure_ascii=False).encode())
    theirs = tokenizers.Tokenizer.from_file(str(path))
    assert theirs.encode(TEXT).ids == small().encode(TEXT).tolist()
    assert theirs.decode(theirs.encode(TEXT).ids) == TEXT
    assert json.loads(theirs.to_str()) == small().to_json()
    again = from_json(path.read_text("utf-8"))
    assert again.to_json() == small().to_json()
    assert again.encode(TEXT).tolist() == small().encode(TEXT).tolist()


def test_it_can_be_pickled():
    assert pickle.loads(pickle.dumps(small())).encode(TEXT).tolist() == small().encode(TEXT).tolist()


def test_symbols_are_the_library_s():
    assert set(subwords._BYTES) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def test_a_missing_library_is_reported_with_what_to_install(monkeypatch):
    described = json.dumps(small().to_json())
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for use in (lambda: from_json(described), lambda: SubwordTokenizer.train([TEXT], 290)):
        with pytest.raises(InputError, match=r"needs tokenizers, which is not installed: run pip install '\.\[bpe\]'"):
            use()


def places(value, path=()):
    """Yield the paths to all values in a JSON value, except most of the vocabulary and the merges."""
    yield path
    if isinstance(value, dict):
        for key in list(value)[:300:37] if len(value) > 50 else value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 3)):
            yield from places(value[i], (*path, i))


@thorough
@given(data=st.data())
def test_damaged_json_is_a_tokenizer_or_an_input_error(data):
    described = copy.deepcopy(small().to_json())
    *path, last = data.draw(st.sampled_from([path for path in places(described) if path]))
    where = described
    for key in path:
        where = where[key]
    if data.draw(st.booleans()):
        del where[last]
    else:
        where[last] = data.draw(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.sampled_from(["", "a", "\ud800", "Ġ", [], {}, [1]])
        )
    tokenizer, message = None, ""
    try:
        tokenizer = from_json(json.dumps(described), "runs/a/tokenizer.json")
    except InputError as error:
        message = str(error)
    if tokenizer is None:
        assert "runs/a/tokenizer.json" in message
    else:
        assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["model"].update(type="Unigram"), r"must be byte-pair encoding"),
        (lambda d: d["model"].update(dropout=0.5), "differs in dropout"),
        (lambda d: d.update(normalizer={"type": "NFC"}), "differs in normalizer"),
        (lambda d: d.update(added_tokens=[{"id": 1, "content": "x"}]), "differs in added_tokens"),
        (lambda d: d["pre_tokenizer"]["pretokenizers"].pop(), "differs in pre_tokenizer"),
        (lambda d: d.update(decoder=None), "differs in decoder"),
        (lambda d: d["model"]["vocab"].update(a=5), "ids of the vocabulary must be 0, 1, 2"),
        (lambda d: d["model"]["vocab"].update(a=True), "vocabulary is missing or damaged"),
        (lambda d: d["model"]["vocab"].update({"a b": 290}), "a character that does not represent a byte"),
        (lambda d: d["model"]["vocab"].update({"zz": d["model"]["vocab"].pop("a")}), "must have all 256 bytes"),
        (lambda d: d["model"]["merges"].append(["q", "q"]), "a merge joins subwords that are not"),
        (lambda d: d["model"]["merges"].append("q q"), "list of merges is missing or damaged"),
    ],
)
def test_other_tokenizers_of_the_library_are_refused(change, message):
    described = copy.deepcopy(small().to_json())
    change(described)
    with pytest.raises(InputError, match=rf"^runs/a/tokenizer\.json: .*{message}.*: restore the file$"):
        from_json(json.dumps(described), "runs/a/tokenizer.json")
