"""Texts as ids: vocabulary, held-out part, documents and errors."""

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headgate
from headgate.cli.main import main
from headgate.errors import InputError
from headgate.settings.run import TextSettings
from headgate.text.characters import ByteTokenizer, CharacterTokenizer
from headgate.text.corpus import another_text, load
from tests.helpers.texts import read, zipped

quick = settings(deadline=None, max_examples=60)


def test_an_empty_corpus(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(
        InputError, match=rf"^the corpus {tmp_path}/a\.txt is empty: give a text of at least two characters$"
    ):
        load(TextSettings(corpus=f"{tmp_path}/a.txt"))
    (tmp_path / "a.zip").write_bytes(zipped({}))
    with pytest.raises(
        InputError, match=r"^the archive .*a\.zip holds no text: only files ending in \.txt, .* are read$"
    ):
        load(TextSettings(corpus=f"{tmp_path}/a.zip"))


@pytest.mark.parametrize(
    ("text", "tokenizer", "tokens"),
    [
        ("a" * 200, "characters", 200),
        (" \n\t" * 50, "characters", 150),
        (" \n\t" * 50, "words", 50),
        ("a\0" * 2, "bytes", 4),
    ],
)
def test_very_short_texts(tmp_path, text, tokenizer, tokens):
    (tmp_path / "a.txt").write_text(text)
    corpus = load(TextSettings(corpus=f"{tmp_path}/a.txt", tokenizer=tokenizer, validation_fraction=0.0))
    assert (len(corpus.training), corpus.characters) == (tokens, len(text))


@pytest.mark.parametrize("text", [" \t" * 50, ""])
def test_a_text_without_words(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(InputError, match=r"the text has no words: |a\.txt is empty: "):
        load(TextSettings(corpus=f"{tmp_path}/a.txt", tokenizer="words"))


def test_memory_that_runs_out_while_ids_are_made(tmp_path, monkeypatch):
    def exhausted(*_):
        raise MemoryError

    (tmp_path / "a.txt").write_text("some text")
    monkeypatch.setattr("headgate.text.corpus.encode", exhausted)
    with pytest.raises(
        InputError, match=rf"^{tmp_path}/a\.txt is too large for the memory.*'headgate prepare {tmp_path}/"
    ):
        load(TextSettings(corpus=f"{tmp_path}/a.txt"))


def test_another_text_is_reported(tmp_path):
    run = tmp_path / "run"
    assert another_text(TextSettings("a.txt"), run, "0.1") == (
        f"a.txt is not the text that {run} was trained on, or gives another vocabulary: continue with that text, or "
        "start another run with --out"
    )
    for name in ("voyage", "verses"):
        assert another_text(TextSettings(name), run, "0.1") == (
            f"the bundled text {name} is not the one that {run} was trained on (by headgate 0.1; this is "
            f"{headgate.__version__}), because bundled texts change between versions: give the path of the old text, "
            f"{name}.txt in the corpora of that version, as CORPUS, or start another run with --out"
        )


def test_a_run_on_an_older_bundled_text_does_not_continue_on_the_new_one(tmp_path, monkeypatch, capsys):
    """It continues if the old text is given by its path."""
    run, old, new = tmp_path / "run", tmp_path / "old.txt", tmp_path / "new.txt"
    old.write_text("the old tale\n" * 40)
    new.write_text("the new tale\n" * 60)
    small = [
        "--hidden-size",
        "5",
        "--embedding",
        "3",
        "--batch-size",
        "2",
        "--sequence-length",
        "7",
        "--quiet",
        "--threads",
        "1",
    ]
    monkeypatch.setattr("headgate.text.catalogue.locate", lambda corpus, **_: old)
    assert main(["train", "voyage", "--out", str(run), "--max-steps", "2", *small]) == 0
    monkeypatch.setattr("headgate.text.catalogue.locate", lambda corpus, **_: new)
    capsys.readouterr()
    assert main(["train", "--resume", "--out", str(run), "--max-steps", "4"]) == 2
    assert capsys.readouterr().err.startswith(
        f"headgate: the bundled text voyage is not the one that {run} was trained on"
    )
    assert main(["evaluate", str(run)]) == 2
    assert capsys.readouterr().err.startswith(f"headgate: voyage has changed since {run} was trained")
    assert main(["train", str(old), "--resume", "--out", str(run), "--max-steps", "4", "--quiet"]) == 0


# Tokens and the held-out part


def test_the_held_out_part_is_the_end(tmp_path):
    text = "abcdefghijklmnopqrstuvwxyz"
    (tmp_path / "a.txt").write_text(text)
    corpus = load(TextSettings(corpus=f"{tmp_path}/a.txt", validation_fraction=0.23))  # 5.98 of 26
    assert corpus.training.dtype == corpus.held_out.dtype == np.int32
    assert corpus.tokenizer.decode(corpus.training) == text[:20]
    assert corpus.tokenizer.decode(corpus.held_out) == text[20:]
    assert (corpus.characters, corpus.beginning, corpus.characters_per_token) == (26, text, 1.0)
    assert corpus.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_nothing_is_held_out(tmp_path):
    (tmp_path / "a.txt").write_text("abc" * 100)
    corpus = load(TextSettings(corpus=f"{tmp_path}/a.txt", validation_fraction=0.0))
    assert (len(corpus.training), len(corpus.held_out)) == (300, 0)
    assert corpus.beginning == ("abc" * 100)[:200]


def test_a_held_out_part_that_is_too_short(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefghijklmno")
    with pytest.raises(
        InputError,
        match=r"^the held-out part would have 1 of 15 tokens, but needs at least 2: "
        r"give more text, a larger --validation-fraction, or --validation-fraction 0$",
    ):
        load(TextSettings(corpus=f"{tmp_path}/a.txt", validation_fraction=0.09))
    assert len(load(TextSettings(corpus=f"{tmp_path}/a.txt", validation_fraction=0.11)).held_out) == 2


def test_the_vocabulary_is_as_the_settings_say(tmp_path):
    (tmp_path / "a.txt").write_text("aaaa bbbb c")
    chosen = TextSettings(corpus=f"{tmp_path}/a.txt", validation_fraction=0.2)
    assert load(chosen).tokenizer.to_json() == CharacterTokenizer(" abc").to_json()  # the held-out c is in it
    rare = dataclasses.replace(chosen, min_frequency=2, unknown=False)
    assert load(rare).tokenizer.to_json() == CharacterTokenizer(" ab", " ").to_json()
    assert isinstance(load(dataclasses.replace(chosen, tokenizer="bytes")).tokenizer, ByteTokenizer)
    with pytest.raises(InputError, match=r"^no character of the text occurs 9 times or more: lower --min-frequency$"):
        load(dataclasses.replace(chosen, min_frequency=9))


def test_the_vocabulary_is_that_of_the_prepared_text(tmp_path):
    (tmp_path / "a.txt").write_text("Ab, ba\nCd")
    chosen = TextSettings(corpus=f"{tmp_path}/a.txt", normalize="letters", limit=5, validation_fraction=0)
    assert load(chosen).tokenizer.to_json() == CharacterTokenizer(" ab").to_json()


def test_bytes_of_a_text(tmp_path):
    (tmp_path / "a.txt").write_text("é分" * 10, "utf-8")
    corpus = load(TextSettings(corpus=f"{tmp_path}/a.txt", tokenizer="bytes", validation_fraction=0.1))
    assert (len(corpus.training), len(corpus.held_out), corpus.characters) == (45, 5, 20)
    assert corpus.characters_per_token == 0.4


@pytest.mark.parametrize(
    "raw", [b"\xff\x00a\r\n\xe5\x88", b"\xef\xbb\xbfa\rb\xed\xa0\x80", bytes(range(256))], ids=["half", "bom", "all"]
)
def test_bytes_that_are_not_text_are_preserved_exactly(tmp_path, raw):
    (tmp_path / "a.bin").write_bytes(raw)
    corpus = load(TextSettings(corpus=f"{tmp_path}/a.bin", tokenizer="bytes", validation_fraction=0.0))
    assert bytes(corpus.training.tolist()) == raw


@quick
@given(raw=st.binary(min_size=1, max_size=50))
def test_any_bytes_are_preserved_exactly(raw, tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "a.bin"
    path.write_bytes(raw)
    corpus = load(TextSettings(corpus=str(path), tokenizer="bytes", validation_fraction=0.0))
    assert bytes(corpus.training.tolist()) == raw


def test_bytes_of_a_text_in_another_encoding_are_its_utf_8(tmp_path):
    (tmp_path / "a.txt").write_bytes("分\r\n".encode("gb18030"))
    corpus = load(
        TextSettings(corpus=f"{tmp_path}/a.txt", tokenizer="bytes", encoding="gb18030", validation_fraction=0.0)
    )
    assert bytes(corpus.training.tolist()) == "分\n".encode()


def test_documents_have_separators_before_them(tmp_path):
    """The separator is one more id, the last; the checksum includes where documents begin."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name, text in {"a/1.txt": "ab", "a/2.txt": "cd", "b/1.txt": "abc", "b/2.txt": "d"}.items():
        (tmp_path / name).write_text(text)
    results = {}
    for folder in "ab":
        corpus = load(TextSettings(corpus=str(tmp_path / folder), documents="files", validation_fraction=0.0))
        assert corpus.tokenizer.document_id == 5
        results[folder] = (corpus.training.tolist(), corpus.sha256)
    assert results["a"][0] == [5, 1, 2, 5, 3, 4]
    assert results["b"][0] == [5, 1, 2, 3, 5, 4]
    assert results["a"][1] != results["b"][1]


def test_words_of_lines_stay_apart(tmp_path):
    (tmp_path / "a.txt").write_text("to be\nor not\nto be\n")
    lines = load(
        TextSettings(corpus=f"{tmp_path}/a.txt", tokenizer="words", documents="lines", validation_fraction=0.0)
    )
    assert lines.tokenizer.inner.words == ("be", "to", "not", "or")
    assert lines.training.tolist() == [5, 2, 1, 5, 4, 3, 5, 2, 1]
    one = load(TextSettings(corpus=f"{tmp_path}/a.txt", tokenizer="words", validation_fraction=0.0))
    assert one.tokenizer.words == ("\n", "be", "to", "not", "or")


def test_bundled_texts_train_as_they_are():
    for name in ("voyage", "verses"):
        corpus = load(TextSettings(corpus=name))
        assert len(corpus.training) == corpus.characters - round(corpus.characters / 10)
        assert corpus.tokenizer.decode(corpus.training[:200]) == corpus.beginning


# The textbook's texts, if they are on this machine


def test_the_time_machine_is_prepared_as_in_the_book(data_dir):
    chosen = TextSettings("time-machine", normalize="letters", validation_fraction=0.0)
    text = read(chosen, data_dir=data_dir)
    assert len(text) == 170_580
    assert text.startswith(
        "the time machine by h g wellsithe time traveller for so it will be convenient to speak of himwas expounding"
    )
    corpus = load(dataclasses.replace(chosen, limit=10_000), data_dir=data_dir)
    assert corpus.characters == len(corpus.training) == 10_000
    assert len(set(text[:10_000])) == 27
    assert corpus.tokenizer.vocabulary_size == 28  # with <unk>
    assert corpus.tokenizer.decode(corpus.training) == text[:10_000]


def test_the_lyrics_are_prepared_as_in_the_book(data_dir):
    chosen = TextSettings("jay-lyrics", normalize="spaces", limit=10_000, unknown=False, validation_fraction=0.0)
    corpus = load(chosen, data_dir=data_dir)
    assert corpus.characters == len(corpus.training) == 10_000
    assert corpus.tokenizer.vocabulary_size == 1_027
    assert corpus.tokenizer.decode(corpus.training[:200]) == corpus.beginning
    assert "\n" not in corpus.beginning
