"""``headgate generate`` and ``evaluate``: the run they use, their output, the flags they refuse, encodings."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from headgate import machine
from headgate.cli.main import main
from headgate.models.language_model import LanguageModel, numpy_weights
from headgate.runs import find
from headgate.runs.checkpoint import Checkpoint
from headgate.runs.run_directory import RunDirectory
from headgate.runtime import sampling
from headgate.settings.run import Settings
from headgate.storage import files
from headgate.text.characters import ByteTokenizer, CharacterTokenizer

SMALL = Settings().replaced(hidden_size=7, num_layers=2, embedding=5, sample_prefixes=("gate",))
TEXT = "the gate is shut, \u00e9\u8def\U0001f600\n"


def make(path: Path, *, seed: int = 1, best: bool = False, settings: Settings = SMALL, **facts) -> Path:
    """Make a run with random weights from ``seed``, and from another seed in best.safetensors."""
    tokenizer = CharacterTokenizer.from_text(TEXT)
    run = RunDirectory.create(path, settings, tokenizer, facts)
    groups = {}
    for group, number in (("weights", seed), *((("best", seed + 100),) if best else ())):
        torch.manual_seed(number)
        groups[group] = numpy_weights(LanguageModel(settings.model, tokenizer.vocabulary_size))
    run.save(Checkpoint(1, groups, {}))
    return path


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return write(*arguments), which returns what generate prints; write.said is its standard error."""

    def run(*arguments: str) -> str:
        assert main(["generate", *arguments]) == 0
        captured = capsys.readouterr()
        run.said = captured.err
        return captured.out

    return run


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("headgate: ")
        assert captured.err.count("\n") == 1
        return captured.err

    return run


# What is written


def test_generate_without_flags_samples_and_prints_its_seed(write) -> None:
    run = str(make(Path("run")))
    first = write(run)
    number = write.said.removeprefix("seed ").strip()
    assert number.isdigit()
    assert first.startswith("gate")  # the prefix of the run's samples
    assert len(first) == 4 + 300 + 1
    assert write(run, "--seed", number) == first
    assert write.said == ""
    assert write(run, "--seed", number, "--temperature", "0.8") == first
    assert write(run) != first  # another seed
    assert write(run, "--seed", number, "--json") == json.dumps(
        {"prefix": "gate", "text": first[:-1], "seed": int(number)}, ensure_ascii=False
    ) + "\n"  # fmt: skip
    assert write(run, "--seed", number, "--stream") == first


def test_greedy_is_temperature_0_or_top_k_1(write) -> None:
    run = str(make(Path("run")))
    greedy = write(run, "--greedy")
    assert write.said == ""  # there is no seed
    assert write(run, "--temperature", "0") == write(run, "--greedy") == greedy
    assert write(run, "--top-k", "1") == greedy
    assert json.loads(write(run, "--greedy", "--json")).keys() == {"prefix", "text"}


def test_the_best_weights_are_used_if_there_are_any(write) -> None:
    run = str(make(Path("run"), best=True))
    best = write(run, "--greedy")
    assert write(run, "--greedy", "--best") == best != write(run, "--greedy", "--no-best")


def test_prefixes_are_sampled_independently(write) -> None:
    run = str(make(Path("run")))
    lines = [
        json.loads(line)["text"] for line in write(run, *["--prefix", "gate"] * 3, "--seed", "5", "--json").splitlines()
    ]
    assert len(set(lines)) == 3
    assert json.loads(write(run, "--prefix", "gate", "--seed", "5", "--json"))["text"] == lines[0]
    seed = sampling.seed_of(5, 1)
    assert json.loads(write(run, "--prefix", "gate", "--seed", str(seed), "--json"))["text"] == lines[1]


@pytest.mark.parametrize(
    ("changes", "facts", "prefix"),
    [
        ({"sample_prefixes": ("is",)}, {"prefix": "shut"}, "is"),
        ({}, {"prefix": "shut"}, "shut"),
        ({}, {"prefix": 3}, ""),
    ],
)
def test_the_default_prefix(write, changes: dict, facts: dict, prefix: str) -> None:
    run = make(Path("run"), settings=SMALL.replaced(**{"sample_prefixes": (), **changes}), **facts)
    assert json.loads(write(str(run), "--seed", "1", "--json"))["prefix"] == prefix


# Which run


def test_the_newest_run_is_the_default(write, fails) -> None:
    assert "there is no trained run under runs/: train one (headgate train), or name one" in fails("generate")
    for age, name in enumerate(("runs/a", "runs/b", "runs/c")):
        run = make(Path(name), seed=age)
        os.utime(run / "model.safetensors", (1e9 - age if name != "runs/b" else 2e9,) * 2)
    RunDirectory.create(Path("runs/d"), SMALL, ByteTokenizer(), {})  # no weights yet
    Path("runs/e").mkdir()
    Path("runs/e/config.json").write_text('{"estimator": "GRURegressor"}')
    Path("runs/e/model.safetensors").write_text("")
    newest = write("--seed", "1")
    assert write.said == "the newest run: runs/b\n"
    assert newest == write("runs/b", "--seed", "1")
    assert write.said == ""
    assert main(["evaluate", "--limit", "3"]) == 2  # its text is missing


def test_a_run_is_found_by_name(write, fails) -> None:
    make(Path("runs/canal"), seed=1)
    make(Path("elsewhere"), seed=2)
    assert write("canal", "--greedy") == write("runs/canal", "--greedy") != write("elsewhere", "--greedy")
    make(Path("canal"), seed=2)
    assert write("canal", "--greedy") == write("elsewhere", "--greedy")  # a path comes first
    assert "there is no run cnal: did you mean canal?" in fails("generate", "cnal")
    assert "there is no run cnal: did you mean canal?" in fails("evaluate", "cnal", "voyage")
    assert "there is no run zzz: 'headgate runs' lists those under runs/" in fails("generate", "zzz")
    Path("text").mkdir()
    assert "text holds no run (there is no config.json)" in fails("generate", "text")


def test_bundled_models_are_found_after_the_users_own(
    write, fails, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = make(tmp_path / "far" / "tale", settings=SMALL.replaced(corpus="voyage"))
    for file in ("log.jsonl", "lock"):
        (run / file).unlink(missing_ok=True)
    halve(run / "model.safetensors")
    monkeypatch.setattr(find, "PRETRAINED", tmp_path / "far")
    assert write("tale", "--seed", "3").startswith("gate")
    assert "there is no run tal: did you mean tale?" in fails("generate", "tal")
    assert "or name one that comes with headgate: tale" in fails("generate")
    assert main(["evaluate", "tale", "voyage", "--limit", "300", "--json"]) == 0
    assert write("tale", "--greedy").startswith('{"text": "voyage", "tokens": 299, ')  # printed by evaluate
    Path("tale").write_text("a file of that name")
    assert write("tale", "--seed", "3").startswith("gate")
    make(Path("runs/tale"), seed=9)
    assert write("tale", "--greedy") == write("runs/tale", "--greedy")  # the user's own comes first


def test_the_bundled_model_of_voyage_writes_and_predicts_it(write, capsys: pytest.CaptureFixture[str]) -> None:
    text = write("voyage", "--prefix", "The boat", "--length", "400", "--seed", "1")
    assert text.startswith("The boat")
    assert len(text) > 400
    words = re.findall("[a-z]+", text.lower())
    voyage = find.PRETRAINED.parents[1] / "text" / "corpora" / "voyage.txt"
    tale = set(re.findall("[a-z]+", voyage.read_text("utf-8").lower()))
    assert sum(word in tale for word in words) > 0.9 * len(words)
    assert main(["evaluate", "voyage", "--runtime", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits_per_character"] < 1.5
    assert sum(file.stat().st_size for file in (find.PRETRAINED / "voyage").iterdir()) < 700_000


def halve(file: Path) -> None:
    """Convert a file of float32 weights to bfloat16."""
    arrays = files.parse_arrays(file.read_bytes(), file)
    header, data = {}, b""
    for name, value in arrays.items():
        content = (np.ascontiguousarray(value).view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": value.shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    for name, value in files.parse_arrays(file.read_bytes(), file).items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, arrays[name], rtol=2**-7)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--greedy", "--seed", "1"], "--greedy always takes the most probable token: --seed does nothing, so omit it"),
        (["--greedy", "--temperature", "0.5"], "--greedy always takes the most probable token: --temperature does"),
        (["--temperature", "0", "--top-k", "3", "--min-p", "0.1"], "--temperature 0 always takes the most probable"),
        (["--temperature", "0", "--top-k", "3", "--min-p", "0.1"], "--top-k and --min-p do nothing, so omit them"),
        (["--beam", "3", "--seed", "1"], "--beam searches for the most probable text"),
        (["--beam", "3", "--greedy"], "--beam searches for the most probable text"),
        (["--beam", "3", "--temperature", "0.7"], "--beam searches for the most probable text"),
        (["--length", str(2**31)], "--length must be at most 2147483647, got 2147483648"),
        (["--beam", str(2**40)], "--beam must be at most 2147483647"),
        (["--top-k", str(2**64)], "--top-k must be at most 2147483647"),
        (["--seed", "-1"], "--length, --beam, --seed and --threads must be at least 0"),
    ],
)
def test_generate_refuses_flags_that_contradict_or_do_nothing(fails, options: list[str], message: str) -> None:
    assert message in fails("generate", str(make(Path("run"))), *options)


def test_seeds_of_any_size_differ(write) -> None:
    run = str(make(Path("run")))
    texts = {write(run, "--prefix", "t", "--prefix", "t", "--seed", str(seed)) for seed in (0, 2**31, 2**64, 2**200)}
    assert len(texts) == 4


def test_a_beam_larger_than_memory_is_refused(fails, monkeypatch: pytest.MonkeyPatch) -> None:
    run = str(make(Path("run")))
    monkeypatch.setattr(machine, "available_memory", lambda: 1 << 30)
    message = fails("generate", run, "--beam", "2000000000")
    assert "a beam of 2,000,000,000 needs at least " in message
    assert message.endswith("use a smaller --beam\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "5"], "--limit applies to TEXT: name a text, or omit --limit"),
        (["voyage", "--rows", str(2**31)], "--rows must be at most 2147483647"),
        (["voyage", "--limit", str(2**40)], "--limit must be at most 2147483647"),
        (["voyage", "--rows", "-1"], "--limit, --rows and --threads must be at least 0"),
    ],
)
def test_evaluate_refuses_wrong_flags(fails, options: list[str], message: str) -> None:
    assert message in fails("evaluate", str(make(Path("run"))), *options)


def test_rows_are_at_most_as_many_as_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    run = str(make(Path("run")))
    Path("text.txt").write_text("the gate is shut")
    answers = []
    for rows in ("15", "2000000000"):
        assert main(["evaluate", run, "text.txt", "--rows", rows, "--runtime", "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]


def test_evaluating_without_enough_memory_is_one_sentence(fails, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("headgate.runtime.evaluation.evaluate", evaluate)
    run = str(make(Path("run")))
    assert "there is not enough memory: use fewer --rows, or evaluate a part of the text with --limit" in fails(
        "evaluate", run, "voyage", "--limit", "300"
    )


# Encodings


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "latin-1"])
@pytest.mark.parametrize("how", [[], ["--stream"], ["--json"]], ids=" ".join)
def test_output_in_any_encoding(encoding: str, how: list[str]) -> None:
    run = str(make(Path("run")))
    arguments = ["generate", run, "--prefix", "\u00e9\u8def\U0001f600", "--length", "200", "--seed", "1", *how]
    done = subprocess.run(
        [sys.executable, "-m", "headgate", *arguments],
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding)
    if how == ["--json"]:
        assert json.loads(text)["prefix"] == "\u00e9\u8def\U0001f600"
    else:
        assert text.startswith("\u00e9\u8def\U0001f600".encode(encoding, "backslashreplace").decode(encoding))


@pytest.mark.parametrize("how", [[], ["--stream"], ["--json"], ["--beam", "2"]], ids=" ".join)
def test_a_prefix_that_is_not_utf_8_is_kept(how: list[str]) -> None:
    """Its bytes are printed unchanged, and escaped in JSON."""
    run = str(make(Path("run")))
    arguments = [*(os.fsencode(a) for a in ("generate", run, "--length", "5", *how)), b"--prefix", b"the \xff"]
    done = subprocess.run([sys.executable, "-m", "headgate", *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (b'"prefix": "the \\udcff"' if how == ["--json"] else b"the \xff") in done.stdout
