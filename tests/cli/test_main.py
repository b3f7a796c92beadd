"""The command line: its output, the files it leaves, and errors of one sentence with exit code 2."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import headgate
from headgate.cli.main import main
from headgate.runs.run_directory import RunDirectory
from headgate.storage.lock import locked
from tests.helpers.imports import BLOCKER
from tests.helpers.runs import TEXT, flags

SMALL = flags(epochs=3)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT)
    assert main(["train", str(folder / "text.txt"), "--out", str(folder / "run"), "--quiet", *SMALL]) == 0
    return folder / "run"


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return fails(*arguments), which runs a command that must exit with 2 and returns its one line of error."""

    def run(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("headgate: ")
        assert captured.err.count("\n") == 1, captured.err
        assert "Traceback" not in captured.err
        return captured.err

    return run


def test_train_leaves_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "canal.txt").write_text(TEXT)
    assert main(["train", "canal.txt", *SMALL]) == 0
    output = capsys.readouterr().out
    assert "732 characters, vocabulary 20\n586 tokens to train on, 146 held out\n" in output
    assert output.count("perplexity") >= 5
    assert "finished: 48 steps, 3 epochs" in output
    assert output.endswith("generate runs/canal\n")
    assert sorted(p.name for p in (tmp_path / "runs" / "canal").iterdir()) == [
        "best.safetensors", "checkpoints", "config.json", "curve.png", "lock", "log.jsonl", "model.safetensors",
        "samples.txt", "tokenizer.json",
    ]  # fmt: skip
    assert (tmp_path / "runs" / "canal" / "curve.png").read_bytes().startswith(b"\x89PNG")

    assert main(["train", "canal.txt", *SMALL]) == 0, "the second run takes another name"
    assert (tmp_path / "runs" / "canal-2" / "config.json").exists()
    weights = [(tmp_path / "runs" / name / "model.safetensors").read_bytes() for name in ("canal", "canal-2")]
    assert weights[0] == weights[1], "the same seed gives the same weights"

    assert main(["train", "canal.txt", "--resume", "--epochs", "4"]) == 0, "more epochs for the newest of that name"
    assert RunDirectory.open(tmp_path / "runs" / "canal-2").log()[-1]["epoch"] == 4
    assert RunDirectory.open(tmp_path / "runs" / "canal").log()[-1]["epoch"] == 3


def test_train_reads_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Input:
        buffer = io.BytesIO(TEXT.encode())

    monkeypatch.setattr(sys, "stdin", Input)
    assert main(["train", "-", "--out", str(tmp_path / "run"), "--quiet", *SMALL]) == 0
    assert RunDirectory.open(tmp_path / "run").settings.text.corpus == "-"


def test_quiet_training_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    assert main(["train", str(tmp_path / "text.txt"), "--out", str(tmp_path / "run"), "--quiet", *SMALL]) == 0
    assert capsys.readouterr() == ("", "")


def test_overwrite_replaces_the_run(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    arguments = ["train", str(tmp_path / "text.txt"), "--out", str(tmp_path / "run"), "--quiet"]
    assert main([*arguments, *SMALL]) == 0
    assert main([*arguments, "--overwrite", *flags(epochs=2)]) == 0
    assert len(RunDirectory.open(tmp_path / "run").log()) == 2


def test_generate_prints_text_or_json(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(trained), "--prefix", "the", "--prefix", "keep", "--length", "9", "--greedy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:3] for line in lines] == ["the", "kee"]
    assert [len(line) for line in lines] == [12, 13]
    assert main(["generate", str(trained), "--prefix", "the", "--length", "9", "--greedy", "--stream"]) == 0
    assert capsys.readouterr().out.splitlines() == lines[:1]
    assert main(["generate", str(trained), "--prefix", "the", "--length", "9", "--greedy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"prefix": "the", "text": lines[0]}
    assert main(["generate", str(trained), "--prefix", "the", "--length", "9", "--beam", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["log_probability"] < 0


def test_generate_is_reproducible_with_a_seed(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(*options: str) -> str:
        assert main(["generate", str(trained), "--prefix", "the", "--length", "30", *options]) == 0
        return capsys.readouterr().out

    assert write("--seed", "1") == write("--seed", "1") != write("--seed", "2")
    assert write("--temperature", "0") == write("--greedy")
    assert write("--top-k", "1") == write("--greedy")


def test_generate_warns_of_unknown_characters(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(trained), "--prefix", "théß", "--length", "3", "--seed", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("théß")
    assert captured.err.count("\n") == 1
    assert "warning: not in the vocabulary" in captured.err
    assert captured.err.endswith("é ß\n")


def test_threads_do_not_change_answers(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = set()
    for threads in ("0", "1", "3"):
        assert main(["generate", str(trained), "--prefix", "the", "--seed", "1", "--threads", threads]) == 0
        assert main(["evaluate", str(trained), "--runtime", "--threads", threads]) == 0
        answers.add(capsys.readouterr().out)
    assert len(answers) == 1
    assert main(["generate", str(trained), "--threads", "-1"]) == 2
    assert "--threads must be at least 0" in capsys.readouterr().err


def test_weights_in_fewer_bits_lose_little_perplexity(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = {}
    for weights in ("float32", "bfloat16", "int8"):
        assert main(["evaluate", str(trained), "--weights", weights, "--json"]) == 0
        results[weights] = json.loads(capsys.readouterr().out)
    exact = results["float32"]
    assert exact["perplexity_lost"] == 0
    for weights in ("bfloat16", "int8"):
        lost = results[weights]["perplexity"] / exact["perplexity"] - 1
        assert results[weights]["perplexity_lost"] == pytest.approx(lost, abs=1e-7)
        assert 0 < abs(lost) < 0.05
    assert main(["evaluate", str(trained), "--weights", "int8"]) == 0
    expected = f"with weights in int8; in float32 the perplexity is {exact['perplexity']:.4f} ("
    assert expected in capsys.readouterr().out
    assert main(["generate", str(trained), "--prefix", "the", "--length", "9", "--weights", "int8"]) == 0
    assert len(capsys.readouterr().out) == 13


def test_evaluate_with_and_without_torch(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.txt").write_text("the keeper came down the canal! " * 8)
    for text in ([], [str(tmp_path / "other.txt")]):
        answers = []
        for how in ([], ["--runtime"]):
            assert main(["evaluate", str(trained), *text, "--json", *how]) == 0
            answers.append(json.loads(capsys.readouterr().out))
        assert answers[0]["loss"] == pytest.approx(answers[1]["loss"], rel=1e-5)
        assert answers[0]["unknown_characters"] == (8 if text else 0)
    last = RunDirectory.open(trained).log()[-1]
    assert main(["evaluate", str(trained), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(last["held_out_loss"], rel=1e-6)
    assert main(["evaluate", str(trained), str(tmp_path / "other.txt")]) == 0
    output = capsys.readouterr().out
    assert "255 tokens predicted, perplexity" in output
    assert "8 characters are not in the vocabulary: !" in output


def test_commands_that_need_no_torch(trained: Path) -> None:
    for arguments in (
        ["--help"], ["train", "--help"], ["generate", str(trained), "--prefix", "the"], ["recipes"], ["corpora"],
        ["evaluate", str(trained), "--runtime"],
    ):  # fmt: skip
        code = f"{BLOCKER}\nfrom headgate.cli.main import main\nraise SystemExit(main({arguments!r}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    hidden = BLOCKER.replace('raise ImportError(f"{name} is blocked")', "raise ModuleNotFoundError(name=name)")
    command = ["train", "--out", str(tmp_path / "r")]
    code = f"{hidden}\nfrom headgate.cli.main import main\nraise SystemExit(main({command!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "needs torch, which is not installed: run pip install '.[train]'" in done.stderr


def test_recipes_corpora_info(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["recipes"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in ("lyrics-scratch", "time-machine-concise", "1.0 to 1.3"))
    assert main(["recipes", "--json"]) == 0
    assert {r["name"]: len(r["published"]) for r in json.loads(capsys.readouterr().out)}["lyrics-scratch"] == 8
    assert main(["corpora", "--json", "--data-dir", str(tmp_path)]) == 0
    found = {c["name"]: c["path"] for c in json.loads(capsys.readouterr().out)}
    assert os.path.exists(found["voyage"])
    assert set(found) == {"voyage", "verses", "time-machine", "jay-lyrics"}
    assert main(["info"]) == 0
    assert f"headgate     {headgate.__version__}" in capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["backends"]) == {"equations", "torch", "native", "runtime"}


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"headgate {headgate.__version__}\n"


def test_a_closed_pipe_is_quiet(trained: Path) -> None:
    code = f"{sys.executable} -m headgate generate {trained} --prefix the --length 3000 --seed 1 --stream | head -c 5"
    done = subprocess.run(code, shell=True, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == "the" + done.stdout[3:5]


# Errors


def test_an_empty_corpus_is_refused(fails, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    message = fails("train", str(tmp_path / "empty.txt"), "--out", str(tmp_path / "run"))
    assert "is empty: give a text of at least two characters" in message
    assert not (tmp_path / "run").exists()


def test_a_corpus_shorter_than_a_batch_is_refused(fails, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("x" * 200)
    message = fails("train", str(tmp_path / "short.txt"), "--out", str(tmp_path / "run"))
    assert "has 180 tokens, but one batch of 32 sequences of 64 steps needs 2113: give more text, or lower" in message
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_too_small_for_an_adaptive_head_is_refused(fails, tmp_path: Path) -> None:
    message = fails("train", "voyage", "--head", "adaptive", "--out", str(tmp_path / "run"))
    assert "head = adaptive needs a vocabulary of at least 1,000, got " in message
    assert not (tmp_path / "run").exists()


def test_a_missing_corpus_is_refused(fails, tmp_path: Path) -> None:
    assert "there is no file or corpus" in fails("train", str(tmp_path / "nowhere.txt"))
    assert "did you mean verses?" in fails("train", "verse")


def test_a_text_that_is_not_utf_8_is_refused_with_remedies(fails, tmp_path: Path) -> None:
    (tmp_path / "gb.txt").write_bytes(b"water " + "河".encode("gb18030") * 1800)
    message = fails("train", str(tmp_path / "gb.txt"), "--out", str(tmp_path / "run"))
    assert "is not utf-8: byte 0xba at offset 6; name its encoding with --encoding, or use --tokenizer bytes" in message
    for remedy in (["--encoding", "gb18030"], ["--tokenizer", "bytes"]):
        arguments = ["train", str(tmp_path / "gb.txt"), "--out", str(tmp_path / remedy[1]), "--quiet", *remedy, *SMALL]
        assert main(arguments) == 0


def test_unknown_recipe(fails) -> None:
    assert "there is no recipe lyrics: did you mean" in fails("train", "--recipe", "lyrics")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\nhiden = 3\n", "unknown key 'hiden' in [model]: did you mean hidden_size?"),
        ("[trainig]\n", "unknown key 'trainig': did you mean training?"),
        ("[model]\nhidden_size = 0\nreset = 'no'\n", "hidden_size must be at least 1"),
        ("[model]\nhidden_size = 0\nreset = 'no'\n", "reset must be one of after, before, got 'no'"),
        ("[model]\nhidden_size = '3'\n", "hidden_size must be a whole number, got '3'"),
        ("[training]\nepochs = true\n", "epochs must be a whole number, got True"),
        ("model = 3\n", "model must be a table"),
        ("[model\n", "is not valid TOML"),
    ],
)
def test_bad_recipe(fails, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    assert message in fails("train", "--recipe", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_unknown_flag_names_the_nearest(fails) -> None:
    assert "unknown argument --hiden: did you mean --hidden-size" in fails("train", "--hiden", "3")
    assert "unknown argument --hidde: did you mean --hidden-size" in fails("train", "--hidde", "3"), "no abbreviations"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command trian: did you mean train?"),
        (["xyz"], "unknown command xyz: see 'headgate --help'"),
        (["generate", "run", "--temp", "1"], "unknown argument --temp: did you mean --temperature?"),
        (["generate", "run", "--temperatur=1"], "unknown argument --temperatur: did you mean --temperature?"),
        (["train", "--reset", "never"], "--reset must be one of after, before, got 'never'"),
        (["train", "--schedule", "cosin"], "got 'cosin': did you mean cosine?"),
        (["prepare", "x.txt", "--outt", "y"], "unknown argument --outt: did you mean --out"),
        (["prepare", "x.txt", "--qqqq"], "unknown argument --qqqq: see 'headgate prepare --help'"),
        (["evaluate", "run", "a.txt", "b.txt"], "unknown argument b.txt: see 'headgate evaluate --help'"),
    ],
)
def test_misspelt_words_name_the_nearest_or_the_help(fails, arguments: list[str], message: str) -> None:
    assert message in fails(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--hidden-size", "x"],
            "argument --hidden-size: invalid int value: 'x': see 'headgate train --help'",
        ),
    ],
)
def test_errors_of_argparse_are_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    error = capsys.readouterr().err
    assert error.startswith("headgate: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--processes", str(2**31)], "--processes must be from 0 to 1024, got 2147483648"),
        (["--processes", "-1"], "--processes must be from 0 to 1024, got -1"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--seed", "3"], "--seed does nothing unless --tokenizer is subwords: omit it, or set that"),
        (["--vocab-size", "300"], "--vocab-size does nothing unless --tokenizer is subwords: omit it, or set that"),
    ],
)
def test_prepare_refuses_wrong_flags(fails, tmp_path: Path, options: list[str], message: str) -> None:
    assert message in fails("prepare", "voyage", "--out", str(tmp_path / "made"), *options)
    assert not (tmp_path / "made").exists()


def test_all_invalid_flags_are_named(fails, tmp_path: Path) -> None:
    message = fails("train", "--hidden-size", "0", "--dropout", "1", "--out", str(tmp_path / "run"))
    assert "hidden_size must be at least 1" in message
    assert "dropout must be below 1, got 1.0" in message


def test_a_directory_in_use_is_refused_and_unchanged(fails, trained: Path, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in trained.iterdir() if p.is_file()}
    message = fails("train", "--out", str(trained))
    assert "already holds a run: continue it with --resume, replace it with --overwrite" in message
    assert {p.name: p.read_bytes() for p in trained.iterdir() if p.is_file()} == before
    (tmp_path / "letter.txt").write_text("dear")
    assert "is not empty and holds no run" in fails("train", "--out", str(tmp_path))
    assert "is a file" in fails("train", "--out", str(tmp_path / "letter.txt"))


def test_a_refused_training_does_not_overwrite_a_run(fails, trained: Path, tmp_path: Path) -> None:
    """The text is checked before the run is replaced."""
    (tmp_path / "short.txt").write_text("x" * 200)
    fails("train", str(tmp_path / "short.txt"), "--out", str(trained), "--overwrite")
    assert main(["generate", str(trained), "--prefix", "the"]) == 0


def test_resume_refuses_other_runs_settings_and_texts(fails, trained: Path, tmp_path: Path) -> None:
    assert "holds no run" in fails("train", "--out", str(tmp_path / "nothing"), "--resume")
    message = fails("train", "--out", str(trained), "--resume", "--hidden-size", "13")
    assert "was started with hidden_size = 12, which cannot change when it continues" in message
    (tmp_path / "other.txt").write_text(TEXT.upper())
    message = fails("train", str(tmp_path / "other.txt"), "--out", str(trained), "--resume")
    assert f"is not the text that {trained} was trained on, or gives another vocabulary" in message
    assert RunDirectory.open(trained).settings.text.corpus.endswith("text.txt"), "the refused text is not noted"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["empty", "cut", "missing"])
def test_a_damaged_run_names_the_file(fails, trained: Path, tmp_path: Path, name: str, damage: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        (run / file).write_bytes((trained / file).read_bytes())
    content = (run / name).read_bytes()
    if damage == "missing":
        (run / name).unlink()
    else:
        (run / name).write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    for command in (["generate", str(run)], ["evaluate", str(run), "voyage", "--limit", "100"]):
        message = fails(*command)
        assert name in message
        assert any(word in message for word in ("restore", "train", "checkpoint"))


def test_a_run_of_another_vocabulary_is_refused(fails, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for file in ("config.json", "model.safetensors"):
        (run / file).write_bytes((trained / file).read_bytes())
    (run / "tokenizer.json").write_text('{"type": "bytes"}')
    message = fails("generate", str(run), "--prefix", "the")
    assert "has shape (20, 12), but config.json and a vocabulary of 256 need (256, 12)" in message


def test_diverging_training_is_one_sentence(fails, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    options = flags(optimizer="sgd", learning_rate=1e38, clip=0, schedule="constant")
    message = fails("train", str(tmp_path / "text.txt"), "--out", str(tmp_path / "run"), "--quiet", *options)
    assert "not finite in 10 steps in a row" in message
    assert "lower --learning-rate (it was 1e+38)" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--length", "-1"], "--length, --beam, --seed and --threads must be at least 0"),
        (["--temperature", "-1", "--top-p", "2"], "temperature must be at least 0 and finite, got -1.0; top_p must be"),
        (["--beam", "3", "--top-k", "3"], "--beam searches for the most probable text"),
        (["--stream", "--json"], "choose one of them"),
    ],
)
def test_generate_refuses_invalid_flags(fails, trained: Path, options: list[str], message: str) -> None:
    assert message in fails("generate", str(trained), *options)


def test_generate_refuses_a_directory_without_a_run(fails, tmp_path: Path) -> None:
    assert "holds no run (there is no config.json): name a directory that headgate train created" in fails(
        "generate", str(tmp_path)
    )


def test_evaluate_needs_a_held_out_part_or_a_text(fails, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    options = flags(validation_fraction=0, epochs=1)
    assert main(["train", str(tmp_path / "text.txt"), "--out", str(tmp_path / "run"), "--quiet", *options]) == 0
    assert "has no held-out part: name a text to evaluate on" in fails("evaluate", str(tmp_path / "run"))
    assert "omit --best" in fails("evaluate", str(tmp_path / "run"), "voyage", "--best")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_sentence(trained: Path, unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        arguments = [sys.executable, "-m", "headgate", "generate", str(trained), "--prefix", "the"]
        env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, env=env)
    assert done.returncode == 2
    assert "No space left on device: free some space" in done.stderr


def test_unknown_words_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The text is read line by line, as in training, and words that the vocabulary lacks are counted."""
    (tmp_path / "text.txt").write_text("the gate is shut\nthe water is low\n" * 40)
    (tmp_path / "other.txt").write_text("the gate\n\nthe flood is low flood\n")
    how = ("--tokenizer", "words", "--documents", "lines", "--hidden-size", "4", "--embedding", "3", "--epochs", "1")
    run = str(tmp_path / "run")
    assert (
        main(
            [
                "train",
                str(tmp_path / "text.txt"),
                *how,
                "--batch-size",
                "4",
                "--sequence-length",
                "5",
                "--quiet",
                "--out",
                run,
            ]
        )
        == 0
    )
    assert main(["evaluate", run, str(tmp_path / "other.txt"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["tokens"], result["unknown_words"]) == (8, 2)  # seven words and two separators, less the first
    assert main(["evaluate", run, str(tmp_path / "other.txt")]) == 0
    assert "2 words are not in the vocabulary: flood\n" in capsys.readouterr().out


def test_a_missing_device_leaves_no_run(fails: Callable[..., str], tmp_path: Path) -> None:
    assert "device mps: this torch finds no" in fails(
        "train", "voyage", "--device", "mps", "--out", str(tmp_path / "r")
    )
    assert not (tmp_path / "r").exists()


def test_a_run_in_use_is_unchanged(trained: Path, fails: Callable[..., str]) -> None:
    """Resuming a run that another process trains is refused before its settings change."""
    before = (trained / "config.json").read_bytes()
    with locked(trained):
        assert f"{trained} is in use by process {os.getpid()} on " in fails(
            "train", "--resume", "--out", str(trained), "--epochs", "9"
        )
    assert (trained / "config.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="file names are text on other systems")
def test_file_names_may_not_be_utf_8(tmp_path: Path) -> None:
    """Training, resuming and preparing use and print such a name byte for byte."""
    name = b"caf\xe9.txt"
    (tmp_path / os.fsdecode(name)).write_text(TEXT * 3)
    small = ("--hidden-size", "4", "--embedding", "3", "--batch-size", "4", "--sequence-length", "5")

    def run(*arguments: str | bytes) -> bytes:
        command = [sys.executable, "-m", "headgate", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, env={**os.environ, "PYTHONUTF8": "1"})
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert name + b":" in run("train", name, "--out", "run", "--max-steps", "3", *small)
    assert b"finished" in run("train", "--resume", "--epochs", "1", "--out", "run")
    assert b"characters" in run("prepare", name, "--out", b"made\xff", "--processes", "1")
    assert b"train made\xff" in run("prepare", name, "--out", b"made\xff", "--processes", "1")
