"""Damaged files: reading them gives something usable or an InputError, soon and in bounded memory.

Where a checksum would detect the damage early, it is recomputed, so that the code after the check is tested.
"""

import bz2
import contextlib
import functools
import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from headgate import GRURegressor
from headgate.cli.main import main
from headgate.errors import InputError
from headgate.runs import estimator_directory
from headgate.runs.overview import as_json, in_words, look
from headgate.runs.run_directory import RunDirectory
from headgate.runtime.runtime import Runtime
from headgate.sequences.table_file import read_table
from headgate.settings import recipe
from headgate.settings.run import Settings, TextSettings
from headgate.text import corpus as corpora
from headgate.text.corpus import Corpus
from headgate.text.prepare import prepare
from headgate.text.prepared_corpus import checksum_of
from headgate.training.loop import train
from headgate.training.report import Report

SMALL = {
    "hidden_size": 3,
    "num_layers": 2,
    "embedding": 2,
    "epochs": 3,
    "batch_size": 4,
    "sequence_length": 5,
    "max_steps": 7,
    "validation_fraction": 0.3,
    "sample_every": 0,
    "threads": 1,
    "report_every": 2,
    "seed": 5,
}
CHECKPOINT = "checkpoints/step-000000007"
GROUPS = [f"{CHECKPOINT}/{group}.safetensors" for group in ("weights", "optimizer", "random", "carried", "best")]


def repeatably(examples: int) -> settings:
    return settings(
        max_examples=examples, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


# Mutations

ODD = [
    "null", "true", "0", "-1", "3", "1.5", "-0.0", "1e999", "-Infinity", "NaN", "2147483647", "9223372036854775808",
    "1" + "0" * 400, "1" * 5000, '""', '"x"', '"\\ud800"', '"\\u0000"', '"../../config.json"', '"aaaa"',
    json.dumps("a" * 1000), "[]", "{}", "[null]", '["a", 1]', '{"a": 1}', '{"a": {"a": []}}', '{"log.jsonl": -1}',
    "[" * 900 + "]" * 900, '{"a":' * 960 + "1" + "}" * 960, "[" * 100_000,
]  # fmt: skip
MARK = "\x01here\x01"


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values in parsed JSON."""
    yield path
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield from places(tree[key], (*path, key))


@st.composite
def bytes_of(draw: Any, content: bytes, reach: int | None = None) -> bytes:
    """Draw a mutation of bytes: flipped, inserted, removed, repeated, cut off or moved, within the first ``reach``."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        end = min(reach or len(changed), len(changed))
        a, b = sorted((draw(st.integers(0, end)), draw(st.integers(0, end))))
        near = min(b, a + draw(st.sampled_from([1, 1, 1, 4, 50])))
        match draw(st.sampled_from(["flip", "insert", "remove", "repeat", "cut", "splice"])):
            case "flip":
                changed[a : a + 1] = draw(st.binary(min_size=1, max_size=1) | st.sampled_from([b"9", b"-", b'"']))
            case "insert":
                changed[a:a] = draw(st.binary(max_size=4) | st.sampled_from([b"9" * 20, b"\xff", b"[", b"e9", b"\0"]))
            case "remove":
                del changed[a:near]
            case "repeat":
                changed[a:a] = changed[a:near]
            case "cut":
                del changed[b:]
            case "splice":
                changed[b:b] = changed[a:near]
    return bytes(changed)


@st.composite
def json_of(draw: Any, content: bytes) -> bytes:
    """Draw a mutation of JSON: a value is replaced by an odd one, removed or repeated, or bytes are changed."""
    if draw(st.integers(0, 3)) == 0:
        return draw(bytes_of(content))
    tree = json.loads(content)
    *path, last = draw(st.sampled_from([p for p in places(tree) if p]))
    inner = tree
    for key in path:
        inner = inner[key]
    how, odd = (
        draw(st.sampled_from(["replace", "replace", "replace", "leave out", "twice", "more"])),
        st.sampled_from(ODD),
    )
    if how == "leave out":
        del inner[last]
        return json.dumps(tree).encode()
    if how in ("twice", "more") and isinstance(inner, dict):
        inner[MARK] = 1
        name = last if how == "twice" else draw(st.sampled_from(["hidden_size", "x", "../x", "\u2028", "a" * 300]))
        return json.dumps(tree).replace(json.dumps(MARK) + ": 1", f"{json.dumps(name)}: {draw(odd)}").encode()
    inner[last] = MARK
    return json.dumps(tree).replace(json.dumps(MARK), draw(odd)).encode()


def other_arrays(array: np.ndarray) -> list[np.ndarray]:
    """Yield possible replacements of an array."""
    kinds = (np.float64, np.float16, np.int64, np.uint8, np.uint16, np.uint64, np.bool_, np.complex64)
    return [
        *(np.ones(array.shape, kind) for kind in kinds),
        *(np.full(array.shape, value, array.dtype) for value in (0, 255)),
        *(np.full(array.shape, value, np.float32) for value in (np.nan, np.inf, -3e38)),
        array.reshape(-1)[:1].copy(), array.reshape(-1)[:0].copy(), np.array(array.reshape(-1)[0]),
        array.reshape(-1).copy(), array[None].copy(), np.concatenate([array[None]] * 2), array.T.copy(),
    ]  # fmt: skip


@st.composite
def arrays_of(draw: Any, content: bytes) -> bytes:
    """Draw a safetensors file with an array changed, missing or added, or with odd numbers in the header."""
    arrays = load(content)
    name = draw(st.sampled_from(sorted(arrays)))
    how = draw(st.sampled_from(["replace", "replace", "leave out", "more", "rename", "header", "bytes"]))
    header = 8 + int.from_bytes(content[:8], "little")
    if how == "bytes":
        return draw(bytes_of(content, draw(st.sampled_from([8, header, len(content)]))))
    if how == "header":
        described = draw(json_of(content[8:header]))
        return len(described).to_bytes(8, "little") + described + content[header:]
    if how == "replace":
        others = other_arrays(arrays[name])
        arrays[name] = others[draw(st.integers(0, len(others) - 1))]
    elif how == "more":
        arrays[draw(st.sampled_from(["x", "0.x", "99.step", "-1.step", "x.step", "\u0663.step"]))] = arrays[name]
    else:
        array = arrays.pop(name)
        if how == "rename":
            arrays[draw(st.sampled_from(["x", "7.exp_avg", "state", "torch.1"]))] = array
    return save(arrays)


# Files of a run


@dataclass
class Kept:
    """The contents of an intact run, and a folder for changed copies."""

    path: Path
    contents: dict[str, bytes]
    corpus: Corpus

    def with_changed(self, changes: Mapping[str, bytes]) -> Path:
        """Write the run with changed files; the manifest matches them unless it is itself changed."""
        contents = {**self.contents, **changes}
        manifest = json.loads(self.contents[f"{CHECKPOINT}/manifest.json"])
        for name in manifest["files"]:
            content = contents[f"{CHECKPOINT}/{name}"]
            manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        contents[f"{CHECKPOINT}/manifest.json"] = json.dumps(manifest).encode()
        shutil.rmtree(self.path, ignore_errors=True)
        for name, content in {**contents, **changes}.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_bytes(content)
        return self.path


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """A run of seven steps, enough for every group of a checkpoint to have contents."""
    folder = tmp_path_factory.mktemp("mutated")
    (folder / "text.txt").write_text("abcabdabeacb" * 14)
    chosen = Settings().replaced(corpus=str(folder / "text.txt"), **SMALL)
    corpus = corpora.load(chosen.text)
    run = RunDirectory.create(
        folder / "run", chosen, corpus.tokenizer, {"corpus_sha256": corpus.sha256, "published": []}
    )
    torch.set_num_threads(1)
    train(run, corpus, Report(run, quiet=True))
    (run.path / "samples.txt").write_text("")
    files = {str(p.relative_to(run.path)): p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    assert {*GROUPS, "best.safetensors", "log.jsonl"} <= files.keys()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # not needed here, and slow
        yield Kept(folder / "changed", files, corpus)


@contextlib.contextmanager
def refused(path: Path) -> Iterator[None]:
    """Context manager: accept an InputError if it is one line and names the path."""
    try:
        yield
    except InputError as error:
        assert str(path) in str(error), error  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


def use(path: Path, corpus: Corpus) -> None:
    """Call everything that reads a run, separately, and use the results."""
    result = look(path)
    assert json.loads(as_json(result))["state"] == result.state
    assert isinstance(f"{in_words(result.age)} {result.epoch} {result.size / 1e6:.1f}", str)
    assert all(f"{value:.2f}" for value in (result.perplexity, result.held_out) if value is not None)
    for best in (False, True):
        with refused(path):
            runtime = Runtime.load(path, best=best)
            assert isinstance(runtime.generate("ab", 3), str)
            assert runtime.log_probabilities("abc").shape == (2,)
    with refused(path):
        run = RunDirectory.open(path)
        assert json.dumps(run.settings.to_dict())
        for read in (run.log, run.progress, run.newest, run.weights, lambda: run.weights(best=True)):
            with refused(path):
                read()
        with refused(path):
            run.write_settings()
        if (
            run.settings.training.threads < 5
            and run.settings.model.hidden_size < 99
            and run.settings.model.num_layers < 99
        ):
            with refused(path), contextlib.suppress(OtherTextError):
                train_on(run, corpus)


class OtherTextError(Exception):
    """The settings require another text, which is not damage."""


def train_on(run: RunDirectory, corpus: Corpus) -> None:
    """Train one more step, as --resume does."""
    if run.tokenizer.to_json() != corpus.tokenizer.to_json():
        return
    before = set(run.path.parent.iterdir())
    try:
        train(run, corpus, Report(run, quiet=True), stop=lambda: True)
    except InputError as error:
        if any(words in str(error) for words in ("give more text", "cannot be shared evenly", "was not finite")):
            raise OtherTextError from None
        raise
    assert set(run.path.parent.iterdir()) == before
    assert (run.path / "config.json").stat().st_size
    assert RunDirectory.open(run.path).newest() is not None


@repeatably(50)
@given(data=st.data())
def test_mutated_settings(kept: Kept, data: Any) -> None:
    use(kept.with_changed({"config.json": data.draw(json_of(kept.contents["config.json"]))}), kept.corpus)


@repeatably(20)
@given(data=st.data())
def test_mutated_vocabulary(kept: Kept, data: Any) -> None:
    use(kept.with_changed({"tokenizer.json": data.draw(json_of(kept.contents["tokenizer.json"]))}), kept.corpus)


@repeatably(25)
@given(data=st.data(), name=st.sampled_from(["model.safetensors", "best.safetensors"]))
def test_mutated_weights(kept: Kept, data: Any, name: str) -> None:
    use(kept.with_changed({name: data.draw(arrays_of(kept.contents[name]))}), kept.corpus)


@repeatably(25)
@given(data=st.data())
def test_mutated_log(kept: Kept, data: Any) -> None:
    lines = kept.contents["log.jsonl"].splitlines(keepends=True)
    number = data.draw(st.integers(0, len(lines) - 1))
    lines[number] = data.draw(json_of(lines[number].strip())) + b"\n"
    use(kept.with_changed({"log.jsonl": b"".join(lines)}), kept.corpus)


@repeatably(25)
@given(data=st.data())
def test_mutated_manifest(kept: Kept, data: Any) -> None:
    name = f"{CHECKPOINT}/manifest.json"
    use(kept.with_changed({name: data.draw(json_of(kept.contents[name]))}), kept.corpus)


@repeatably(50)
@given(data=st.data())
def test_mutated_state(kept: Kept, data: Any) -> None:
    name = f"{CHECKPOINT}/state.json"
    use(kept.with_changed({name: data.draw(json_of(kept.contents[name]))}), kept.corpus)


@repeatably(70)
@given(data=st.data(), name=st.sampled_from(GROUPS))
def test_mutated_arrays_of_a_checkpoint(kept: Kept, data: Any, name: str) -> None:
    use(kept.with_changed({name: data.draw(arrays_of(kept.contents[name]))}), kept.corpus)


# Prepared corpora


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small prepared corpus for each kind of tokenizer with a vocabulary."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "text.txt").write_text("to be or not\nto be 分开\n" * 30)
    made = {}
    for kind in ("characters", "word", "bpe"):
        chosen = TextSettings(tokenizer=kind, vocab_size=260, documents="lines")
        prepare([str(folder / "text.txt")], chosen, folder / kind)
        made[kind] = folder / kind
    return made


@repeatably(120)
@given(
    data=st.data(), kind=st.sampled_from(["characters", "word", "bpe"]),
    name=st.sampled_from(["manifest.json", "manifest.json", "tokenizer.json", "tokenizer.json", "shard-000000.bin"]),
    hidden=st.booleans(),
)  # fmt: skip
def test_mutated_prepared_corpora(prepared: dict[str, Path], data: Any, kind: str, name: str, hidden: bool) -> None:
    """With ``hidden``, the checksums are recomputed."""
    contents = {p.name: p.read_bytes() for p in prepared[kind].iterdir() if p.name != "lock"}
    changed = {name: data.draw(bytes_of(contents[name]) if name.endswith("bin") else json_of(contents[name]))}
    if hidden:
        changed = {"manifest.json": contents["manifest.json"], **changed}
        with contextlib.suppress(ValueError, RecursionError, TypeError, AttributeError):
            manifest = json.loads(changed["manifest.json"])
            if name == "tokenizer.json":
                manifest["tokenizer_sha256"] = hashlib.sha256(changed[name]).hexdigest()
            manifest.pop("checksum", None)
            manifest["checksum"] = checksum_of(manifest)
            changed["manifest.json"] = json.dumps(manifest).encode()
    path = prepared[kind].with_name("changed")
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for file, content in {**contents, **changed}.items():
        (path / file).write_bytes(content)
    with refused(path):
        corpus = corpora.load(TextSettings(corpus=str(path), validation_fraction=0.0))
        assert len(corpus.training[np.arange(len(corpus.training))]) == len(corpus.training)
        assert isinstance(corpus.tokenizer.decode(corpus.tokenizer.encode("to be")), str)
        assert corpus.characters >= 0


# Recipes

RECIPE = """\
description = "an example"
source = "a book"

[text]
corpus = "voyage"
held_out = 0.1

[model]
hidden = 8
dropout = 0.5

[training]
epochs = 3
sample_prefixes = ["ab", "c"]
random_offset = false

[[published]]
epoch = 2
perplexity = "1.0 to 1.3"
"""
ODD_TOML = [
    "0x" + "f" * 5000, "1" * 5000, "9223372036854775808", "-1", "0", "1e999", "nan", "-inf", "true", '""', '"\\u0000"',
    '"\\U0010ffff"', "[]", "{}", "1979-05-27T07:32:00Z", "07:32:00", '"nan to inf"', '"1e999"',
    "[0x" + "f" * 5000 + "]",
    "{a = 0x" + "f" * 5000 + "}", "[" * 900 + "]" * 900, "[" * 100_000, "{a = " * 200 + "1" + "}" * 200,
    "{a" + ".a" * 150 + " = 1}", "[1, 'x', {a = 2}]", '"""\n' + "x\n" * 9 + '"""',
]  # fmt: skip


@st.composite
def toml_of(draw: Any, content: str) -> bytes:
    """Draw a mutation of TOML: a value, key or table is replaced by something odd, or bytes are changed."""
    lines = content.splitlines()
    number = draw(st.integers(0, len(lines) - 1))
    key, equals, value = lines[number].partition(" = ")
    match draw(st.sampled_from(["value", "value", "key", "table", "leave out", "twice", "bytes"])):
        case "value":
            lines[number] = key + (equals or " = ") + draw(st.sampled_from(ODD_TOML))
        case "key":
            odd = [
                ".a",
                "a" + ".a" * 190,
                "''",
                '"\\u0000"',
                f"{key}.a",
                "published",
                "é",
            ]
            lines[number] = draw(st.sampled_from(odd)) + " = " + (value or "1")
        case "table":
            odd = [
                "[text]",
                "[[text]]",
                "[published]",
                "[[published.epoch]]",
                "[a" + ".b" * 180,
            ]
            lines.insert(number, draw(st.sampled_from(odd)))
        case "leave out":
            del lines[number]
        case "twice":
            lines.insert(number, lines[draw(st.integers(0, len(lines) - 1))])
        case "bytes":
            return draw(bytes_of(content.encode()))
    return "\n".join(lines).encode()


@repeatably(100)
@given(data=st.data())
def test_mutated_recipe(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.toml"
    path.write_bytes(data.draw(toml_of(RECIPE)))
    with refused(path):
        result = recipe.load(str(path))
        assert json.dumps(result.settings.to_dict())
        assert all(isinstance(f"{p.epoch} {p.perplexity} {p.bounds}", str) for p in result.published)
        assert f"{result.description} {result.source}"


# Saved estimators, with matching checksums; tests/runs/test_estimator_directory.py mutates them without


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, bytes]:
    path = tmp_path_factory.mktemp("estimators") / "model"
    X = np.random.default_rng(0).normal(size=(6, 4, 2))
    GRURegressor(hidden_size=3, epochs=1, random_state=0).fit(X, X[:, 0, 0]).save(path)
    return path, (path / "config.json").read_bytes(), (path / "model.safetensors").read_bytes()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numbers may become huge
@repeatably(60)
@given(data=st.data(), name=st.sampled_from(["config.json", "model.safetensors"]))
def test_mutated_saved_estimators(estimator: tuple[Path, bytes, bytes], data: Any, name: str) -> None:
    path, described, content = estimator
    described = data.draw(json_of(described)) if name == "config.json" else described
    content = data.draw(arrays_of(content)) if name != "config.json" else content
    with contextlib.suppress(ValueError, RecursionError, AttributeError):
        config = json.loads(described)
        learned = {part: config.get(part) for part in ("estimator", "parameters", "facts")}
        described = json.dumps({**config, "sha256": estimator_directory._checksum(learned, content)}).encode()
    (path / "config.json").write_bytes(described)
    (path / "model.safetensors").write_bytes(content)
    with refused(path):
        GRURegressor.load(path)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the command fit makes from a table."""
    path = tmp_path_factory.mktemp("fitted")
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(6, 4)), columns=list("abcd"))
    table.to_csv(path / "table.csv", index=False)
    options = ["--target", "d", "--hidden-size", "3", "--epochs", "1", "--out", str(path / "model"), "--quiet"]
    assert main(["fit", str(path / "table.csv"), *options]) == 0
    shutil.copy(path / "model" / "data.json", path)
    return path


@repeatably(25)
@given(data=st.data())
def test_mutated_roles_of_columns(fitted: Path, data: Any) -> None:
    """Mutations of data.json, which lists the columns that a fitted model reads."""
    (fitted / "model" / "data.json").write_bytes(data.draw(json_of((fitted / "data.json").read_bytes())))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(["predict", str(fitted / "model"), str(fitted / "table.csv")]) in (0, 2)


# Tables

TABLE = pd.DataFrame(
    {"day": pd.date_range("2024-01-01", periods=5), "name": list("aabbé"), "sold": [1.5, None, 2.5, -1.0, 1e9]}
)


@functools.cache
def table_files() -> dict[str, bytes]:
    csv = TABLE.to_csv(index=False).encode()
    packed, parquet = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("t.csv", csv)
    TABLE.to_parquet(parquet, index=False)
    return {
        "t.csv": csv, "t.csv.gz": gzip.compress(csv, mtime=0), "t.csv.zip": packed.getvalue(),
        "t.csv.bz2": bz2.compress(csv), "t.csv.xz": lzma.compress(csv), "t.parquet": parquet.getvalue(),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # pandas warns about mixed columns
@repeatably(60)
@given(data=st.data(), name=st.sampled_from(sorted(table_files())))
def test_mutated_tables(tmp_path_factory: pytest.TempPathFactory, data: Any, name: str) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data.draw(bytes_of(table_files()[name])))
    with refused(path):
        assert len(read_table(str(path)))


# Files that claim to be huge

HOSTILE = """
import json, resource, sys, time
from pathlib import Path
import torch
from headgate.settings import recipe
from headgate.text import corpus as corpora
from headgate.settings.run import TextSettings
from headgate.errors import InputError
from headgate.training.report import Report
from headgate.runs.run_directory import RunDirectory
from headgate.runtime.runtime import Runtime
from headgate.training.loop import train

run, cases, corpus = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), corpora.load(
    TextSettings(corpus=sys.argv[3], validation_fraction=0.3)
)
kept = {name: (run / name).read_bytes() for name, _ in cases}
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000, resource.RLIM_INFINITY))

def go_on():
    directory = RunDirectory.open(run)
    train(directory, corpus, Report(directory, quiet=True), stop=lambda: True)

readers = (lambda: Runtime.load(run), go_on, lambda: recipe.load(str(run / "a.toml")))
for name, content in cases:
    (run / name).write_bytes(content.encode("latin-1"))
    said = []
    began = time.monotonic()
    for read in readers:
        try:
            read()
        except InputError as error:
            said.append(len(str(error)))
    assert said, name
    assert time.monotonic() - began < 10, name
    (run / name).write_bytes(kept[name])
print("bounded")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and RLIMIT_AS")
def test_files_that_claim_to_be_huge_take_no_memory(kept: Kept, tmp_path: Path) -> None:
    run = kept.with_changed({"a.toml": b"[model]\nhidden_size = 3\n"})
    config = kept.contents["config.json"].decode()
    cases = [
        ("config.json", config.replace(f'"{name}": {SMALL[name]}', f'"{name}": {2**31 - 1}'))
        for name in ("hidden_size", "num_layers", "embedding", "batch_size", "sequence_length", "threads")
    ]
    for length in (2**63, 2**40, 10**8 - 1):
        cases.append(("model.safetensors", length.to_bytes(8, "little").decode("latin-1") + "{}"))
    for shape in ([2**40], [0, 2**64 - 1], [2**32, 2**32], [1] * 100):
        header = json.dumps(
            {"head.bias": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0 if 0 in shape else 4]}}
        )
        cases.append(("model.safetensors", len(header).to_bytes(8, "little").decode("latin-1") + header + "\0" * 4))
    cases.append(("tokenizer.json", json.dumps({"type": "characters", "characters": "a" * 1_000_000})))
    assert all(content.encode("latin-1") != kept.contents.get(name) for name, content in cases)
    (tmp_path / "cases").write_text(json.dumps(cases))
    (tmp_path / "text.txt").write_text("abcabdabeacb" * 14)
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, str(run), str(tmp_path / "cases"), str(tmp_path / "text.txt")],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.stdout == "bounded\n", done.stderr
