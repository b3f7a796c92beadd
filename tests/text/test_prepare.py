"""Prepared corpora: the same ids as from reading, with any number of processes and after interruptions."""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from headgate.cli.main import main
from headgate.errors import InputError
from headgate.runs.run_directory import RunDirectory
from headgate.settings.run import TextSettings
from headgate.storage.lock import locked
from headgate.text import prepare as preparation
from headgate.text import sources
from headgate.text.corpus import load
from headgate.text.prepare import prepare
from headgate.text.prepared_corpus import PreparedCorpus, checksum_of

TEXT = "The gate is shut.\nThe gate is open, and the water runs.\n\n水门开了，水流了。\n" * 12


@pytest.fixture
def text(tmp_path) -> Path:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(TEXT, "utf-8")
    (tmp_path / "texts" / "b.txt.gz").write_bytes(gzip.compress(TEXT[::-1].encode()))
    return tmp_path / "texts"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Make passages of at most 40 characters and shards of 300, so that there are about six."""
    monkeypatch.setattr(preparation, "SHARD", 300)
    monkeypatch.setattr(sources.passages, "__kwdefaults__", {**sources.passages.__kwdefaults__, "size": 40})


def all_of(ids):
    return ids[np.arange(len(ids))]


@pytest.mark.parametrize("documents", ["one", "files", "lines"])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"min_frequency": 20},
        {"min_frequency": 20, "unknown": False},
        {"normalize": "spaces"},
        {"normalize": "letters"},
        {"tokenizer": "bytes"},
        {"tokenizer": "words", "min_frequency": 5},
        {"tokenizer": "subwords", "vocab_size": 270},
    ],
    ids=lambda how: "-".join(map(str, how.values())) or "default",
)
def test_a_prepared_corpus_equals_the_text_read_into_memory(text, tmp_path, monkeypatch, how, documents):
    """It is cut elsewhere, but has the same ids, vocabulary, split and counts."""
    chosen = TextSettings(corpus=str(text), documents=documents, **how)
    made = prepare([str(text)], chosen, tmp_path / "made")
    assert len(list((tmp_path / "made").glob("shard-*"))) > 2
    result = load(dataclasses.replace(chosen, corpus=str(tmp_path / "made")))
    monkeypatch.undo()
    expected = load(chosen)
    assert result.tokenizer.to_json() == expected.tokenizer.to_json()
    assert np.array_equal(all_of(result.training), expected.training)
    assert np.array_equal(all_of(result.held_out), expected.held_out)
    assert (result.characters, result.beginning) == (expected.characters, expected.beginning)
    assert made.ids._dtype == (np.uint8 if expected.tokenizer.vocabulary_size <= 256 else np.uint16)
    if documents != "one":
        separators = int(np.sum(all_of(made.ids) == made.tokenizer.document_id))
        lines = 48 if how.get("normalize") == "letters" else 72  # a third of them has no letters
        assert separators == made.documents == (2 if documents == "files" else lines)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "lock" and p.is_file()}


def test_any_number_of_processes_writes_the_same_files(text, tmp_path):
    for count in (1, 2):
        prepare([str(text)], TextSettings(), tmp_path / str(count), processes=count)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stage", ["vocabulary", "ids"])
@pytest.mark.parametrize("after", [0, 700])
def test_an_interrupted_preparation_is_continued(text, tmp_path, monkeypatch, stage, after):
    prepare([str(text)], TextSettings(), tmp_path / "whole")
    read = {"vocabulary": 0, "ids": 0}

    def stop(now, characters):
        read[now] += characters
        if now == stage and read[now] > after:
            raise StoppedError

    with pytest.raises(StoppedError):
        prepare([str(text)], TextSettings(), tmp_path / "made", tell=stop)
    written = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "made").glob("*.bin")}
    assert bool(written) == (stage == "ids" and after > 0)
    prepare([str(text)], TextSettings(), tmp_path / "made")
    assert contents(tmp_path / "made") == contents(tmp_path / "whole")
    assert {name: (tmp_path / "made" / name).stat().st_mtime_ns for name in written} == written


@pytest.mark.parametrize("damage", ["gone", "facts", "empty facts", "begun"])
def test_shards_damaged_in_the_meantime_are_made_again(text, tmp_path, damage):
    prepare([str(text)], TextSettings(), tmp_path / "whole")

    def stop(stage, characters):
        if stage == "ids" and len(list((tmp_path / "made").glob("shard-*.json"))) == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        prepare([str(text)], TextSettings(), tmp_path / "made", tell=stop)
    if damage == "gone":
        (tmp_path / "made" / "shard-000001.bin").unlink()
    elif damage == "begun":
        (tmp_path / "made" / ".shard-000003.bin.tmp").write_bytes(b"half")
    else:
        (tmp_path / "made" / "shard-000001.json").write_text('{"file"' if damage == "facts" else "{}")
    prepare([str(text)], TextSettings(), tmp_path / "made")
    assert contents(tmp_path / "made") == contents(tmp_path / "whole")


def test_a_text_changed_in_the_meantime_is_refused(text, tmp_path):
    def stop(stage, characters):
        if stage == "ids" and len(list((tmp_path / "made").glob("shard-*.json"))) == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        prepare([str(text)], TextSettings(), tmp_path / "made", tell=stop)
    (text / "a.txt").write_text(TEXT.replace("open", "shut", 1), "utf-8")
    with pytest.raises(InputError, match=rf"^the text has changed since its preparation in {tmp_path}/made was begun"):
        prepare([str(text)], TextSettings(), tmp_path / "made")


def test_existing_files_and_directories(text, tmp_path):
    """The same corpus is opened as it is; anything else is refused and left unchanged."""
    out = tmp_path / "made"
    prepare([str(text)], TextSettings(), out)
    before = contents(out)
    assert len(prepare([str(text)], TextSettings(), out).ids) == 2 * len(TEXT)
    for chosen, source in ((TextSettings(tokenizer="bytes"), text), (TextSettings(), text / "a.txt")):
        with pytest.raises(InputError, match=f"^{out} already holds another prepared corpus: name another directory"):
            prepare([str(source)], chosen, out)
    assert contents(out) == before
    with pytest.raises(InputError, match=rf"^{text} is not empty \(it holds a.txt\): name a new directory with --out$"):
        prepare([str(text)], TextSettings(), text)
    with pytest.raises(InputError, match=r"a\.txt is a file: name a directory"):
        prepare([str(text)], TextSettings(), text / "a.txt")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "preparing.json").write_text("{}")
    (tmp_path / "begun" / "tokenizer.json").write_text("{}")
    with pytest.raises(
        InputError, match="holds an unfinished preparation of another corpus or with other settings: finish"
    ):
        prepare([str(text)], TextSettings(), tmp_path / "begun")
    with locked(out), pytest.raises(InputError, match=f"{out} is in use by process {os.getpid()}"):
        prepare([str(text)], TextSettings(), out)


def test_a_failed_start_does_not_block_the_next(text, tmp_path):
    """A missing source creates nothing; after a wrong encoding, the right one may follow."""
    with pytest.raises(InputError, match=r"^there is no file or corpus none\.txt"):
        prepare([str(text), "none.txt"], TextSettings(), tmp_path / "made")
    assert not (tmp_path / "made").exists()
    with pytest.raises(InputError, match=r"a\.txt is not ascii: byte 0xe6 at offset 57"):
        prepare([str(text)], TextSettings(encoding="ascii"), tmp_path / "made")
    assert len(prepare([str(text)], TextSettings(), tmp_path / "made").ids) == 2 * len(TEXT)


def test_subwords_are_learned_from_a_sample_of_a_long_text(monkeypatch):
    """It has as many whole passages as fit, in order, others for another seed, and all of a short text."""
    texts = [chr(97 + number) * 10 for number in range(20)]
    monkeypatch.setattr(preparation, "SAMPLE", 55)
    samples = [list(preparation._sample(lambda: iter(texts), seed)) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    for sample in samples:
        assert len(sample) == 5
        assert sample == sorted(sample)
        assert set(sample) < set(texts)
    monkeypatch.setattr(preparation, "SAMPLE", 200)
    assert list(preparation._sample(lambda: iter(texts), 0)) == texts


def test_standard_input_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    with pytest.raises(InputError, match=r"^standard input can be read only once, "):
        prepare(["-"], TextSettings(), tmp_path / "made")
    corpus = prepare(["-"], TextSettings(tokenizer="bytes"), tmp_path / "made")
    assert bytes(all_of(corpus.ids).tolist()) == TEXT.encode()


def test_no_text(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match=r"a\.txt holds no text: give a text of at least two characters$"):
        prepare([str(tmp_path / "a.txt")], TextSettings(tokenizer="bytes"), tmp_path / "made")


# Damage


def damaged(file: Path, change) -> None:
    file.write_bytes(change(file.read_bytes()))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("shard-000003.bin", lambda b: b[:-1] + bytes([b[-1] ^ 1]), "is damaged (its checksum differs)"),
        ("shard-000003.bin", lambda b: b[:-1], "has 296 bytes instead of 297: restore it"),
        ("manifest.json", lambda b: b.replace(b'"tokens": ', b'"tokens": 1', 1), "is damaged (its checksum differs)"),
        ("manifest.json", lambda b: b[:-9], "is damaged ("),
        ("manifest.json", lambda b: b"[]", "is damaged ("),
        (
            "tokenizer.json",
            lambda b: b.replace("水".encode(), "氷".encode()),
            "is not the tokenizer that the corpus was",
        ),
        ("tokenizer.json", lambda b: b"\xff", "is missing or damaged"),
    ],
)
def test_damage_is_named(text, tmp_path, name, change, message):
    out = tmp_path / "made"
    prepare([str(text)], TextSettings(), out)
    damaged(out / name, change)
    before = contents(out)
    with pytest.raises(InputError) as caught:
        load(TextSettings(corpus=str(out)))
    assert f"{out}/{name} {message}" in str(caught.value)
    assert contents(out) == before


def test_a_missing_shard_is_named(text, tmp_path):
    prepare([str(text)], TextSettings(), tmp_path / "made")
    (tmp_path / "made" / "shard-000002.bin").unlink()
    with pytest.raises(InputError, match=r"shard-000002.bin is missing: restore it"):
        PreparedCorpus.open(tmp_path / "made")


def test_processes_share_the_checking(text, tmp_path):
    out = tmp_path / "made"
    prepare([str(text)], TextSettings(), out)
    damaged(out / "shard-000003.bin", lambda b: b[:-1] + bytes([b[-1] ^ 1]))
    PreparedCorpus.open(out, share=(0, 2))
    with pytest.raises(InputError, match=r"shard-000003\.bin is damaged"):
        PreparedCorpus.open(out, share=(1, 2))


def test_a_manifest_of_another_format(text, tmp_path):
    prepare([str(text)], TextSettings(), tmp_path / "made")
    manifest = json.loads((tmp_path / "made" / "manifest.json").read_text())
    del manifest["checksum"]
    manifest["format"] = 99
    manifest["checksum"] = checksum_of(manifest)
    (tmp_path / "made" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"has format 99, but this headgate reads 1 to 2: prepare the text again$"):
        PreparedCorpus.open(tmp_path / "made")


# From the command line

SMALL = (
    "--hidden-size",
    "8",
    "--embedding",
    "4",
    "--batch-size",
    "4",
    "--sequence-length",
    "5",
    "--epochs",
    "2",
    "--quiet",
)


def test_training_on_a_prepared_corpus_equals_training_on_the_text(text, tmp_path, capsys):
    """The weights are equal to the bit, and the run can be continued."""
    flags = ("--documents", "lines", "--tokenizer", "words")
    assert main(["prepare", str(text), "--out", str(tmp_path / "made"), "--processes", "1", *flags]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path}/made: " in said
    assert "in 72 documents" in said
    assert main(["train", str(text), "--out", str(tmp_path / "one"), *flags, *SMALL]) == 0
    assert main(["train", str(tmp_path / "made"), "--out", str(tmp_path / "two"), "--max-steps", "7", *SMALL]) == 0
    assert main(["train", "--resume", "--out", str(tmp_path / "two"), "--quiet"]) == 0
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("one", "two")]
    assert weights[0] == weights[1]
    assert main(["evaluate", str(tmp_path / "two"), "--runtime", "--json"]) == 0
    with_numpy = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(tmp_path / "two"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(with_numpy["loss"], rel=1e-6)


def test_settings_of_a_prepared_corpus_cannot_change(text, tmp_path, capsys):
    out = str(tmp_path / "made")
    assert main(["prepare", str(text), "--out", out, "--processes", "1", "--quiet"]) == 0
    assert main(["train", out, "--out", str(tmp_path / "run"), "--tokenizer", "bytes", *SMALL]) == 2
    assert capsys.readouterr().err == (
        f"headgate: {out} was prepared with tokenizer = characters: omit --tokenizer, or prepare the text again\n"
    )
    assert main(["train", out, "--out", str(tmp_path / "run"), "--tokenizer", "characters", *SMALL]) == 0
    settings = RunDirectory.open(tmp_path / "run").settings.text
    assert (settings.corpus, settings.tokenizer) == (out, "characters")


def test_a_pipe_needs_a_tokenizer_with_a_fixed_vocabulary(tmp_path):
    receive, send = os.pipe()
    os.write(send, b"a text")
    os.close(send)
    with pytest.raises(
        InputError, match=rf"^/dev/fd/{receive} can be read only once, but the vocabulary needs a first"
    ):
        prepare([f"/dev/fd/{receive}"], TextSettings(), tmp_path / "made")
    assert not (tmp_path / "made").exists()
    made = prepare([f"/dev/fd/{receive}"], TextSettings(tokenizer="bytes"), tmp_path / "made")
    assert (made.characters, len(made.ids)) == (6, 6)
    os.close(receive)


def test_a_run_does_not_continue_on_another_prepared_corpus(text, tmp_path, capsys):
    made = tmp_path / "made"
    assert main(["prepare", str(text), "--out", str(made), "--processes", "1", "--quiet"]) == 0
    assert main(["train", str(made), "--out", str(tmp_path / "run"), "--max-steps", "3", *SMALL]) == 0
    for file in made.iterdir():
        file.unlink()
    assert main(["prepare", str(text / "a.txt"), "--out", str(made), "--processes", "1", "--quiet"]) == 0
    before = contents(tmp_path / "run")
    assert main(["train", "--resume", "--out", str(tmp_path / "run")]) == 2
    assert f"is not the text that {tmp_path}/run was trained on, or gives another vocabulary" in capsys.readouterr().err
    assert contents(tmp_path / "run") == before


KILLED = """
import sys
from pathlib import Path
from headgate.text import prepare, sources
from headgate.settings.run import TextSettings
prepare.SHARD = 300
sources.passages.__kwdefaults__["size"] = 40
if __name__ == "__main__":
    print("begun", flush=True)
    prepare.prepare([sys.argv[1]], TextSettings(), Path(sys.argv[2]))
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_workers_do_not_outlive_their_parent(text, tmp_path):
    code = KILLED.replace("Path(sys.argv[2]))", "Path(sys.argv[2]), processes=2, tell=lambda *_: time.sleep(0.05))")
    (tmp_path / "killed.py").write_text("import time\n" + code)
    with subprocess.Popen([sys.executable, tmp_path / "killed.py", text, tmp_path / "made"]) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for _ in range(900):
            started = children.read_text().split()
            if len(started) >= 2:  # a worker and multiprocessing's own tracker
                break
            time.sleep(0.05)
        process.kill()
    assert len(started) >= 2
    for _ in range(900):
        if not any(Path(f"/proc/{pid}").is_dir() for pid in started):
            return
        time.sleep(0.05)
    raise AssertionError("workers are still there")


def test_a_preparation_killed_repeatedly_is_completed(text, tmp_path):
    """After any kill -9 the next attempt continues, and the result is that of an undisturbed preparation."""
    prepare([str(text)], TextSettings(), tmp_path / "whole")
    generator = np.random.default_rng(5)
    for _ in range(8):
        arguments = [sys.executable, "-c", KILLED, str(text), str(tmp_path / "made")]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            try:
                process.wait(generator.uniform(0, 0.06))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
    prepare([str(text)], TextSettings(), tmp_path / "made")
    assert contents(tmp_path / "made") == contents(tmp_path / "whole")
    assert hashlib.sha256((tmp_path / "made" / "manifest.json").read_bytes()).hexdigest()


def test_a_limit_is_refused(tmp_path):
    with pytest.raises(InputError, match="limit applies to training, not to a prepared corpus: omit it"):
        prepare(["voyage"], TextSettings(limit=100), tmp_path / "made")
    assert not (tmp_path / "made").exists()
