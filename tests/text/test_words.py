"""Words to ids and back, whole and word by word; the treatment of whitespace."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError
from headgate.text import words
from headgate.text.tokenizer import from_json
from headgate.text.words import UNKNOWN, WordTokenizer

thorough = settings(deadline=None, max_examples=150)
some_text = st.text(st.sampled_from("ab é分\n\n\t  \r\x1c\u2028"), max_size=30)


def tidy(text: str) -> str:
    """Return a text as it is after encoding and decoding: single spaces, none next to a line break."""
    return "\n".join(" ".join(line.split()) for line in text.split("\n"))


def test_ids_follow_frequency_then_the_alphabet():
    tokenizer = WordTokenizer.from_counts(Counter({"c": 2, "b": 2, "\n": 5, "a": 1, "d": 3}))
    assert tokenizer.words == ("\n", "d", "b", "c", "a")
    assert (tokenizer.vocabulary_size, tokenizer.special_ids, tokenizer.document_id) == (6, [0], None)
    ids = tokenizer.encode("a x\nd\tc  \n")
    assert ids.dtype == np.int32
    assert ids.tolist() == [5, 0, 1, 2, 4, 1]
    assert tokenizer.decode(ids) == f"a {UNKNOWN}\nd c\n"
    assert tokenizer.out_of_vocabulary("y x\na y é") == ["y", "x", "é"]


def test_rare_words_become_unk():
    counts = WordTokenizer.count("a b a\nb c a")
    assert counts == {"a": 3, "b": 2, "c": 1, "\n": 1}
    assert WordTokenizer.from_counts(counts, min_frequency=2).words == ("a", "b")


@pytest.mark.parametrize("text", ["", "  ", "\t "])
def test_text_without_words_has_no_ids(text):
    ids = WordTokenizer(["a"]).encode(text)
    assert (ids.shape, ids.dtype) == ((0,), np.int32)


@thorough
@given(text=some_text.filter(lambda text: text.split() or "\n" in text))
def test_words_round_trip_up_to_spaces(text):
    tokenizer = WordTokenizer.from_counts(WordTokenizer.count(text))
    ids = tokenizer.encode(text)
    assert tokenizer.out_of_vocabulary(text) == []
    assert tokenizer.decode(ids) == tidy(text)
    assert tokenizer.encode(tokenizer.decode(ids)).tolist() == ids.tolist()


@thorough
@given(text=some_text, vocabulary=some_text, size=st.integers(1, 5))
def test_blocks_change_nothing(text, vocabulary, size):
    tokenizer = WordTokenizer.from_counts(WordTokenizer.count(vocabulary + "x"))
    expected = tokenizer.encode(text).tolist(), tokenizer.out_of_vocabulary(text), tokenizer.count(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "_BLOCK", size)
        assert (tokenizer.encode(text).tolist(), tokenizer.out_of_vocabulary(text), tokenizer.count(text)) == expected


@pytest.mark.parametrize(
    ("after", "text"),
    [("", "a b\nb"), ("x", " a b\nb"), ("x ", "a b\nb"), ("x\n", "a b\nb"), ("x\t", "a b\nb")],
)
def test_a_space_precedes_the_first_word_after_a_word(after, text):
    tokenizer = WordTokenizer(["a", "b", "\n"])
    write = tokenizer.stream_decoder(after)
    assert "".join(map(write, [1, 2, 3, 2, None])) == text


def test_no_space_before_a_line_break():
    assert WordTokenizer(["a", "\n"]).stream_decoder("x")(2) == "\n"


def test_invalid_vocabularies_are_refused():
    with pytest.raises(InputError, match=r"^the text has no words: a vocabulary needs at least one$"):
        WordTokenizer.from_counts(Counter())
    with pytest.raises(InputError, match=r"^no word of the text occurs 3 times or more: lower --min-frequency$"):
        WordTokenizer.from_counts(Counter("ab"), min_frequency=3)
    for word in ("", " ", "a b", "a\n", " a", "\n\n"):
        with pytest.raises(InputError, match="must have no whitespace, or be a line break"):
            WordTokenizer(["a", word])
    for several in ([], ["a", "b", "a"]):
        with pytest.raises(InputError, match="at least one word, and each word only once"):
            WordTokenizer(several)


def test_json_round_trip():
    tokenizer = WordTokenizer(["b", "\n", "分"])
    assert tokenizer.to_json() == {"type": "words", "words": ["b", "\n", "分"]}
    assert from_json(json.dumps(tokenizer.to_json())).encode("分\nb a").tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("value", [None, "ab", ["a", 1], [], ["a", "a"], ["a b"], [None], {"a": 1}])
def test_damaged_json_names_the_file(value):
    with pytest.raises(InputError, match=r"^runs/a/tokenizer\.json: .*: restore the file$"):
        from_json(json.dumps({"type": "words", "words": value}), "runs/a/tokenizer.json")
