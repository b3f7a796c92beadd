"""Tokenizers: texts to ids and back, whole and id by id; documents; intact and damaged JSON."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError
from headgate.text.characters import ByteTokenizer, CharacterTokenizer
from headgate.text.subwords import SubwordTokenizer
from headgate.text.tokenizer import TOKENIZERS, DocumentTokenizer, from_json
from headgate.text.words import UNKNOWN, WordTokenizer

thorough = settings(deadline=None, max_examples=150)
any_text = st.text(st.characters(codec="utf-8"), max_size=40)  # all of Unicode except lone surrogates
few_letters = st.text(st.sampled_from("ab é分开\n\U0001f600"), max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def write_one_by_one(tokenizer, ids) -> list[str]:
    """Return the pieces that a stream decoder returns, the flushed rest last."""
    write = tokenizer.stream_decoder()
    return [*(write(int(i)) for i in ids), write(None)]


def encode_slowly(tokenizer: CharacterTokenizer, text: str) -> list[int]:
    """Encode with one dictionary look-up per character."""
    first = 1 if tokenizer.replacement is None else 0
    known = {c: first + place for place, c in enumerate(tokenizer.characters)}
    return [known.get(c, 0 if tokenizer.replacement is None else known[tokenizer.replacement]) for c in text]


# Characters


def test_ids_follow_the_code_points_after_unk():
    tokenizer = CharacterTokenizer.from_text("开é分\nbé\n\U0001f600b")
    assert tokenizer.characters == "\nbé分开\U0001f600"
    assert tokenizer.vocabulary_size == 7
    assert tokenizer.special_ids == [0]
    ids = tokenizer.encode("分b\U0001f600\n")
    assert ids.dtype == np.int32
    assert ids.tolist() == [4, 2, 6, 1]


def test_without_unk_ids_start_at_the_first_character():
    tokenizer = CharacterTokenizer.from_text("ab ab", unknown=False)
    assert (tokenizer.characters, tokenizer.replacement, tokenizer.vocabulary_size) == (" ab", " ", 3)
    assert tokenizer.special_ids == []
    assert tokenizer.encode("ba b").tolist() == [2, 1, 0, 2]
    assert tokenizer.decode([0, 1, 2]) == " ab"


@pytest.mark.parametrize(
    ("text", "stand_in"),
    [("ab ", " "), ("abcbc c", " "), ("abcbc", "b"), ("aabccc", "c"), ("zy", "y")],
)
def test_without_unk_a_space_or_else_the_most_frequent_character_stands_in(text, stand_in):
    tokenizer = CharacterTokenizer.from_text(text, unknown=False)
    assert tokenizer.replacement == stand_in
    assert tokenizer.decode(tokenizer.encode("?\0\U0010ffff")) == 3 * stand_in


def test_rare_characters_become_unk():
    tokenizer = CharacterTokenizer.from_text("aaabbc", min_frequency=2)
    assert tokenizer.characters == "ab"
    assert tokenizer.encode("cabx").tolist() == [0, 1, 2, 0]
    assert tokenizer.decode([2, 0, 1]) == "b" + UNKNOWN + "a"


def test_rare_characters_become_the_stand_in_that_is_frequent_enough():
    tokenizer = CharacterTokenizer.from_text("aaa bbc", min_frequency=2, unknown=False)
    assert (tokenizer.characters, tokenizer.replacement) == ("ab", "a")  # the only space is rare itself
    assert tokenizer.encode("c b").tolist() == [0, 0, 1]


def test_characters_below_between_and_above_the_vocabulary_are_unknown():
    tokenizer = CharacterTokenizer("bdf")
    assert tokenizer.encode("abcdefg").tolist() == [0, 1, 0, 2, 0, 3, 0]
    assert tokenizer.out_of_vocabulary("gabca?g") == ["g", "a", "c", "?"]
    assert tokenizer.out_of_vocabulary("fdb") == []


def test_empty_text_has_no_ids():
    for tokenizer in (CharacterTokenizer("ab"), ByteTokenizer()):
        assert tokenizer.encode("").shape == (0,)
        assert tokenizer.encode("").dtype == np.int32
        assert tokenizer.decode([]) == ""


def test_nothing_is_unknown_to_a_byte_vocabulary():
    assert ByteTokenizer().out_of_vocabulary("é分\0") == []
    assert (ByteTokenizer().vocabulary_size, ByteTokenizer().special_ids) == (256, [])


@thorough
@given(text=any_text.filter(len), unknown=st.booleans())
def test_characters_round_trip(text, unknown):
    tokenizer = CharacterTokenizer.from_text(text, unknown=unknown)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert 0 <= ids.min() <= ids.max() < tokenizer.vocabulary_size
    assert tokenizer.decode(ids) == text
    assert tokenizer.out_of_vocabulary(text) == []
    assert "".join(write_one_by_one(tokenizer, ids)) == text


@thorough
@given(vocabulary=few_letters.filter(len), text=any_text | few_letters, unknown=st.booleans())
def test_encode_is_a_dictionary_look_up(vocabulary, text, unknown):
    tokenizer = CharacterTokenizer.from_text(vocabulary, unknown=unknown)
    assert tokenizer.encode(text).tolist() == encode_slowly(tokenizer, text)


@thorough
@given(text=few_letters.filter(len), unknown=st.booleans(), data=st.data())
def test_characters_decoded_one_by_one_equal_decode(text, unknown, data):
    tokenizer = CharacterTokenizer.from_text(text, unknown=unknown)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocabulary_size - 1), max_size=20))
    pieces = write_one_by_one(tokenizer, ids)
    assert [len(piece) for piece in pieces] == [1] * len(ids) + [0]
    assert "".join(pieces) == tokenizer.decode(ids)


@pytest.mark.parametrize(
    "described",
    [
        {"type": "characters", "replacement": None, "characters": "ab\ud800"},
        {"type": "words", "words": ["a", "b\ud800"]},
        {"type": "documents", "of": {"type": "words", "words": ["\ud800"]}},
    ],
)
def test_half_a_surrogate_pair_in_a_vocabulary(described):
    """It is refused: it could be neither written nor printed."""
    what = r"the vocabulary contains half a surrogate pair, U\+D800, which is not a character"
    with pytest.raises(
        InputError, match=rf"^runs/a/tokenizer\.json: (runs/a/tokenizer\.json: )?{what}: restore the file"
    ):
        from_json(json.dumps(described), "runs/a/tokenizer.json")
    with pytest.raises(InputError, match=f"^{what}$"):
        CharacterTokenizer.from_text("a\ud800")


def test_half_a_surrogate_pair_in_a_text_is_unknown():
    assert CharacterTokenizer("ab").encode("a\ud800b\udcff").tolist() == [1, 0, 2, 0]


def test_invalid_vocabularies_are_refused():
    with pytest.raises(InputError, match=r"^the text is empty: a vocabulary needs at least one character$"):
        CharacterTokenizer.from_text("")
    with pytest.raises(InputError, match=r"^no character of the text occurs 3 times or more: lower --min-frequency$"):
        CharacterTokenizer.from_text("aabb", min_frequency=3)
    for characters in ("ba", "aab"):
        with pytest.raises(InputError, match=r"^a character vocabulary must be sorted and without repetition$"):
            CharacterTokenizer(characters)
    for replacement in ("z", "", "ab"):
        with pytest.raises(
            InputError, match=f"^the replacement '{replacement}' must be one character of the vocabulary$"
        ):
            CharacterTokenizer("abc", replacement)


@thorough
@given(text=any_text | few_letters)
def test_counts_of_pieces_add_up(text):
    counts = CharacterTokenizer.count(text[:3]) + CharacterTokenizer.count(text[3:])
    assert counts == Counter(text)
    if text:
        assert CharacterTokenizer.from_counts(counts).to_json() == CharacterTokenizer.from_text(text).to_json()


def test_blocks_of_a_long_text_are_joined(monkeypatch):
    text = "ab分\U0001f600é" * 7
    tokenizer = CharacterTokenizer("ab分")
    expected = encode_slowly(tokenizer, text)
    monkeypatch.setattr("headgate.text.characters._BLOCK", 3)
    assert tokenizer.encode(text).tolist() == expected
    monkeypatch.setattr("headgate.text.characters._BLOCK", 1)
    assert CharacterTokenizer.count(text) == Counter(text)


# Bytes


@thorough
@given(text=any_text)
def test_bytes_round_trip(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == list(text.encode("utf-8"))
    assert tokenizer.decode(ids.tolist()) == text
    assert "".join(write_one_by_one(tokenizer, ids)) == text


def test_bytes_decode_what_encode_returned():
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode("é分")) == "é分"  # an array is iterable too


@thorough
@given(raw=st.binary(max_size=30))
def test_bytes_decoded_one_by_one_equal_decode(raw):
    pieces = write_one_by_one(ByteTokenizer(), raw)
    assert "".join(pieces) == ByteTokenizer().decode(raw) == raw.decode("utf-8", "replace")


def test_a_character_is_returned_at_its_last_byte_and_not_before():
    assert write_one_by_one(ByteTokenizer(), "é分a".encode()) == ["", "é", "", "", "分", "a", ""]


def test_half_a_character_at_the_end_is_flushed_as_unknown():
    assert write_one_by_one(ByteTokenizer(), b"a\xe5\x88") == ["a", "", "", UNKNOWN]


def test_stream_decoders_do_not_share_incomplete_characters():
    tokenizer = ByteTokenizer()
    one, other = tokenizer.stream_decoder(), tokenizer.stream_decoder()
    assert (one(0xC3), other(0x61), one(0xA9), other(None)) == ("", "a", "é", "")


# Documents


@pytest.mark.parametrize("inner", [ByteTokenizer(), CharacterTokenizer("ab"), WordTokenizer(["b", "a"])])
def test_documents_have_one_more_id_that_is_never_written(inner):
    tokenizer = DocumentTokenizer(inner)
    last = inner.vocabulary_size
    assert (tokenizer.vocabulary_size, tokenizer.document_id) == (last + 1, last)
    assert tokenizer.special_ids == [*inner.special_ids, last]
    ids = inner.encode("a b?")
    assert tokenizer.encode("a b?").tolist() == ids.tolist()
    assert tokenizer.out_of_vocabulary("a b?") == inner.out_of_vocabulary("a b?")
    separated = [last, *ids[:1], last, last, *ids[1:], last]
    assert tokenizer.decode(separated) == inner.decode(ids)
    assert "".join(write_one_by_one(tokenizer, separated)) == inner.decode(ids)


def test_documents_pass_on_the_preceding_text():
    assert DocumentTokenizer(WordTokenizer(["a"])).stream_decoder("x")(1) == " a"


def test_documents_cannot_contain_documents():
    with pytest.raises(InputError, match="a documents tokenizer cannot contain another one"):
        DocumentTokenizer(DocumentTokenizer(ByteTokenizer()))


# JSON


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: CharacterTokenizer.from_text('分开 "\\\n'),
        lambda: CharacterTokenizer.from_text("分开 不", unknown=False),
        ByteTokenizer,
        lambda: WordTokenizer(["不开", "\n", "x"]),
        lambda: DocumentTokenizer(WordTokenizer(["不开"])),
        lambda: DocumentTokenizer(SubwordTokenizer.train(["不开 不开"], 258)),
    ],
    ids=["unk", "stand-in", "bytes", "words", "documents", "documents of subwords"],
)
def test_json_round_trip(make, ascii_only):
    tokenizer = make()
    again = from_json(json.dumps(tokenizer.to_json(), ensure_ascii=ascii_only))
    assert type(again) is type(tokenizer)
    assert again.to_json() == tokenizer.to_json()
    assert again.to_json().get("type", "subwords") in TOKENIZERS
    assert again.vocabulary_size == tokenizer.vocabulary_size
    assert again.encode("不开 ?").tolist() == tokenizer.encode("不开 ?").tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "documents"}', r"^runs/a/tokenizer\.json does not describe a tokenizer \(it has no type\)"),
        (
            '{"type": "documents", "of": {"type": "documents", "of": {"type": "bytes"}}}',
            "a documents tokenizer cannot contain another one",
        ),
        ('{"type": "documents", "of": {"type": "words"}}', r"^runs/a/tokenizer\.json: the list of words"),
        ('{"type": "subwords"}', r"^runs/a/tokenizer\.json: the model must be byte-pair encoding"),
        ("", r"^runs/a/tokenizer\.json does not describe a tokenizer \(JSONDecodeError.*\): restore the file$"),
        ("[]", r"^runs/a/tokenizer\.json does not describe a tokenizer \(it has no type\): restore"),
        ("{}", r"^runs/a/tokenizer\.json does not describe a tokenizer \(it has no type\): restore the file$"),
        ("[" * 100_000, r"^runs/a/tokenizer\.json does not describe a tokenizer \(RecursionError"),
        ('{"type": "bytse"}', r"^runs/a/tokenizer\.json names an unknown tokenizer 'bytse': did you mean bytes\?$"),
        (
            '{"type": null}',
            r"^runs/a/tokenizer\.json names an unknown tokenizer None: known: bytes, characters, documents, ",
        ),
        (
            '{"type": "characters"}',
            r"^runs/a/tokenizer\.json: the list of characters is missing or damaged: restore the file$",
        ),
        ('{"type": "characters", "characters": ""}', "the list of characters is missing or damaged"),
        ('{"type": "characters", "characters": ["a"]}', "the list of characters is missing or damaged"),
        (
            '{"type": "characters", "characters": "ab", "replacement": 1}',
            "the list of characters is missing or damaged",
        ),
        ('{"type": "characters", "characters": "ba"}', r"runs/a/tokenizer\.json.*sorted and without repetition"),
        ('{"type": "characters", "characters": "ab", "replacement": "c"}', r"runs/a/tokenizer\.json.*replacement 'c'"),
    ],
)
def test_json_that_is_not_a_tokenizer_names_the_file(text, message):
    with pytest.raises(InputError, match=message):
        from_json(text, "runs/a/tokenizer.json")


def works_or_names_the_file(text: str) -> None:
    tokenizer, message = None, ""
    try:
        tokenizer = from_json(text, "runs/a/tokenizer.json")
    except InputError as error:
        message = str(error)
    if tokenizer is None:
        assert "runs/a/tokenizer.json" in message
    else:
        ids = tokenizer.encode("an \U0001f600")
        assert len(ids)
        assert 0 <= ids.min() <= ids.max() < tokenizer.vocabulary_size


@thorough
@given(
    json_values
    | st.fixed_dictionaries(
        {"type": st.sampled_from(TOKENIZERS) | json_values},
        optional={
            "characters": st.text("abc", max_size=3) | json_values,
            "words": st.lists(st.text("ab \n", max_size=3), max_size=3) | json_values,
            "of": st.fixed_dictionaries({"type": st.sampled_from(TOKENIZERS)}) | json_values,
            "model": st.fixed_dictionaries({"type": st.just("BPE")}, optional={"vocab": json_values}) | json_values,
            "replacement": st.text("abc", max_size=2) | json_values,
        },
    )
)
def test_any_json_is_a_tokenizer_or_an_input_error(value):
    works_or_names_the_file(json.dumps(value))


@thorough
@given(data=st.data(), unknown=st.booleans())
def test_damaged_json_is_a_tokenizer_or_an_input_error(data, unknown):
    text = json.dumps(CharacterTokenizer.from_text("nab 分", unknown=unknown).to_json(), ensure_ascii=False)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 3, len(text))) | st.just(len(text)))
    works_or_names_the_file(text[:start] + data.draw(st.text(max_size=2)) + text[end:])
