"""``prepare()``: texts of any size, tokenized by several processes in little memory into a prepared corpus.

Working files, gone when the manifest is written: preparing.json (what is being prepared) and a shard-000000.json beside
each finished shard.
"""

import collections
import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from headgate.errors import InputError
from headgate.settings.run import TextSettings
from headgate.storage.directory import foreign
from headgate.storage.files import file_sha256, format_json, write_whole
from headgate.storage.lock import locked
from headgate.text.corpus import beginning_of, checksum, encode, tokenizer_for
from headgate.text.prepared_corpus import (
    FORMAT,
    SETTINGS,
    PreparedCorpus,
    checksum_of,
    dtype_of,
    is_prepared,
    read_tokenizer,
)
from headgate.text.sources import Passage, check, is_stream, passages

SHARD = 1 << 23  # characters
SAMPLE = 1 << 30  # characters that subwords are learned from, at most

Told = Callable[[str, int], None]  # what is under way, and how many characters were done since


def prepare(
    sources: Sequence[str],
    settings: TextSettings,
    folder: Path,
    *,
    processes: int = 1,
    seed: int = 0,
    data_dir: Path | None = None,
    tell: Told = lambda stage, characters: None,
) -> PreparedCorpus:
    """Tokenize ``sources`` as ``settings`` say (corpus and held_out aside) into ``folder``, and open what came of it.

    The same ids as those that ``corpus.load`` makes. Where it was cut short before, it goes on. Subwords are learned
    from a random sample, drawn with ``seed``, where the text is longer than SAMPLE.
    Raises InputError for a text that cannot be read, and for a folder that holds something else or is in use.
    """
    job = {
        "format": FORMAT,
        "sources": [
            source if source == "-" or not os.path.exists(source) else os.path.abspath(source) for source in sources
        ],
        "settings": {name: getattr(settings, name) for name in SETTINGS},
        "seed": seed,
    }
    streams = [source for source in sources if is_stream(source)]
    if streams and settings.tokenizer != "bytes":
        raise InputError(
            f"{'standard input' if '-' in streams else streams[0]} can be read only once, and the vocabulary needs a "
            "first reading: write the text to a file, or use --tokenizer bytes"
        )
    _check_folder(folder)
    check(sources, data_dir=data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if is_prepared(folder):
            found = PreparedCorpus.open(folder)
            if found.job != job:
                raise InputError(f"{folder} already holds another prepared corpus: name another directory with --out")
            _clear(folder)
            return found
        _begin(folder, job)

        def read(stage: str) -> Iterator[Passage]:
            for passage in passages(settings, sources, data_dir=data_dir):
                tell(stage, len(passage.text))
                yield passage

        with _workers(processes) as each:
            sha256 = _make_tokenizer(folder, settings, lambda: read("vocabulary"), seed, each)
            tasks = ((folder, sha256, n, text) for n, text in enumerate(_shards(read("ids"))))
            facts = list(each(_write_shard, tasks))
        if not facts:
            raise InputError(f"{', '.join(sources)}: no text: at least two characters are needed")
        _finish(folder, job, sha256, facts)
        return PreparedCorpus.open(folder)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a directory for the corpus with --out")
    begun = is_prepared(folder) or (folder / "preparing.json").exists()
    if not begun and (other := foreign(folder, re.compile(r"lock|\.preparing\.json\.tmp"))):
        raise InputError(f"{folder} is not empty (it holds {other}): name a new directory with --out")


def _begin(folder: Path, job: dict[str, Any]) -> None:
    """Note what is being prepared; InputError where something else was begun that has come to anything."""
    file = folder / "preparing.json"
    if not (folder / "tokenizer.json").exists():
        write_whole(file, format_json(job, indent=2))
        return
    try:
        begun = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        begun = None
    if begun != job:
        raise InputError(
            f"in {folder} the preparation of another corpus, or with other settings, was begun: finish that, or name "
            "another directory with --out"
        )


def _make_tokenizer(
    folder: Path, settings: TextSettings, read: Callable[[], Iterator[Passage]], seed: int, each: Any
) -> str:
    """Write the tokenizer of the text, unless an earlier attempt has; the SHA-256 of the file."""
    file = folder / "tokenizer.json"
    if not file.exists():
        texts: Iterator[str] = (passage.text for passage in read())
        if settings.tokenizer == "subwords":
            texts = _sample(lambda: (passage.text for passage in read()), seed)
        tokenizer = tokenizer_for(settings, texts, each=each)
        write_whole(file, format_json(tokenizer.to_json()))
    return file_sha256(file)


def _sample(read: Callable[[], Iterator[str]], seed: int) -> Iterator[str]:
    """A text, or where it has more than SAMPLE characters random pieces of it with about so many, in order."""
    lengths = np.array([len(text) for text in read()])
    order = np.random.default_rng(seed).permutation(len(lengths))
    chosen = np.zeros(len(lengths), bool)
    chosen[order[np.cumsum(lengths[order]) <= SAMPLE]] = True
    return (text for text, taken in zip(read(), chosen, strict=True) if taken)


def _shards(text: Iterable[Passage]) -> Iterator[list[Passage]]:
    """Passages put together to some SHARD characters."""
    shard: list[Passage] = []
    length = 0
    for passage in text:
        if shard and length + len(passage.text) > SHARD:
            yield shard
            shard, length = [], 0
        shard.append(passage)
        length += len(passage.text)
    if shard:
        yield shard


_read_once = functools.lru_cache(maxsize=1)(read_tokenizer)  # by a worker


def _write_shard(task: tuple[Path, str, int, list[Passage]]) -> dict[str, Any]:
    """Write a shard and the facts about it, unless an earlier attempt has. A task: the folder, the SHA-256 of its
    tokenizer, the number of the shard, its text."""
    folder, sha256, number, text = task
    tokenizer = _read_once(folder, sha256)
    name = f"shard-{number:06d}"
    facts: dict[str, Any] = {
        "file": f"{name}.bin",
        "text_sha256": checksum(tokenizer, text),
        "characters": sum(len(passage.text) for passage in text),
        "documents": sum(passage.begins for passage in text),
        "beginning": beginning_of(text) if number == 0 else "",
    }
    before = _recorded(folder / f"{name}.json")
    if before is not None and (folder / f"{name}.bin").exists():
        if before.items() >= facts.items():
            return before
        raise InputError(
            f"the text has changed since its preparation in {folder} was begun (shard {number}): remove the "
            "directory and begin again"
        )
    V = tokenizer.vocabulary_size
    ids = encode(tokenizer, text)
    if len(ids) and not 0 <= ids.min() <= ids.max() < V:
        raise AssertionError(f"ids from {ids.min()} to {ids.max()} for a vocabulary of {V}")
    content = ids.astype(dtype_of(V)).tobytes()
    facts |= {"tokens": len(ids), "sha256": hashlib.sha256(content).hexdigest()}
    write_whole(folder / f"{name}.bin", content)
    write_whole(folder / f"{name}.json", json.dumps(facts).encode())
    return facts


def _recorded(file: Path) -> dict[str, Any] | None:
    """The facts about a shard; None where there are none, or they cannot be read: the shard is then made again."""
    try:
        facts: dict[str, Any] = json.loads(file.read_bytes())
        return facts if facts.keys() >= {"file", "text_sha256", "tokens", "sha256"} else None
    except (FileNotFoundError, ValueError, AttributeError, RecursionError):
        return None


def _finish(folder: Path, job: dict[str, Any], sha256: str, facts: list[dict[str, Any]]) -> None:
    """Write the manifest and remove the working files."""
    V = read_tokenizer(folder, sha256).vocabulary_size
    manifest = {
        **job,
        "tokenizer_sha256": sha256,
        "vocabulary_size": V,
        "dtype": dtype_of(V).name,
        "tokens": sum(f["tokens"] for f in facts),
        "characters": sum(f["characters"] for f in facts),
        "documents": sum(f["documents"] for f in facts),
        "beginning": facts[0]["beginning"],
        "shards": [{key: f[key] for key in ("file", "tokens", "sha256")} for f in facts],
    }
    manifest["checksum"] = checksum_of(manifest)
    write_whole(folder / "manifest.json", format_json(manifest, indent=1))
    _clear(folder)


def _clear(folder: Path) -> None:
    """Remove the working files."""
    for file in (folder / "preparing.json", *folder.glob("shard-*.json"), *folder.glob(".*.tmp")):
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def _workers(count: int) -> Iterator[Any]:
    """A map over ``count`` processes, in order, that takes no more from its source than is being worked on."""
    if count == 1:
        yield map
        return
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin_to_work) as pool:

        def each(function: Callable[[Any], Any], source: Iterable[Any]) -> Iterator[Any]:
            waiting: collections.deque[Future[Any]] = collections.deque()
            for item in source:
                waiting.append(pool.submit(function, item))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        try:
            yield each
        except BrokenProcessPool:
            raise InputError(
                "a worker process was killed, perhaps for want of memory: the same command goes on; lower --processes"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin_to_work() -> None:
    """A worker leaves interrupts to its parent, and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
