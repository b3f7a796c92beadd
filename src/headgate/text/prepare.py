"""``prepare()``: tokenizes texts of any size, in several processes and little memory, into a prepared corpus.

Working files, removed after the manifest is written: preparing.json, which says what is being prepared, and one
shard-000000.json for each finished shard.
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
SAMPLE = 1 << 30  # most characters that subwords are learned from

Told = Callable[[str, int], None]  # the current stage, and the characters done since the last call


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
    """Tokenize ``sources`` as ``settings`` say into ``folder``, and open the result.

    Ignores the settings corpus and validation_fraction. The ids are the same as those that ``corpus.load`` makes. A
    preparation that was interrupted is continued. If the text is longer than SAMPLE, subwords are learned from a random
    sample of it, drawn with ``seed``.
    Raises InputError for a text that cannot be read, and for a folder that holds something else or is in use.
    """
    if settings.limit:
        raise InputError("limit applies to training, not to a prepared corpus: omit it, or prepare a shorter text")
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
            f"{'standard input' if '-' in streams else streams[0]} can be read only once, but the vocabulary needs a "
            "first reading: write the text to a file, or use --tokenizer bytes"
        )
    _check_folder(folder)
    check(sources, data_dir=data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if is_prepared(folder):
            prepared = PreparedCorpus.open(folder)
            if prepared.job != job:
                raise InputError(f"{folder} already holds another prepared corpus: name another directory with --out")
            _clear(folder)
            return prepared
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
            raise InputError(f"{', '.join(sources)} holds no text: give a text of at least two characters")
        _finish(folder, job, sha256, facts)
        return PreparedCorpus.open(folder)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a directory for the corpus with --out")
    begun = is_prepared(folder) or (folder / "preparing.json").exists()
    if not begun and (other := foreign(folder, re.compile(r"lock|\.preparing\.json\.tmp"))):
        raise InputError(f"{folder} is not empty (it holds {other}): name a new directory with --out")


def _begin(folder: Path, job: dict[str, Any]) -> None:
    """Write down what is being prepared. Raises InputError if the folder holds another unfinished preparation."""
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
            f"{folder} holds an unfinished preparation of another corpus or with other settings: finish that, or name "
            "another directory with --out"
        )


def _make_tokenizer(
    folder: Path, settings: TextSettings, read: Callable[[], Iterator[Passage]], seed: int, each: Any
) -> str:
    """Write the tokenizer of the text, unless an earlier attempt did, and return the SHA-256 of the file."""
    file = folder / "tokenizer.json"
    if not file.exists():
        texts: Iterator[str] = (passage.text for passage in read())
        if settings.tokenizer == "subwords":
            texts = _sample(lambda: (passage.text for passage in read()), seed)
        tokenizer = tokenizer_for(settings, texts, each=each)
        write_whole(file, format_json(tokenizer.to_json()))
    return file_sha256(file)


def _sample(read: Callable[[], Iterator[str]], seed: int) -> Iterator[str]:
    """Return random pieces of a text, in order, with SAMPLE characters at most; a shorter text is returned whole."""
    lengths = np.array([len(text) for text in read()])
    order = np.random.default_rng(seed).permutation(len(lengths))
    chosen = np.zeros(len(lengths), bool)
    chosen[order[np.cumsum(lengths[order]) <= SAMPLE]] = True
    return (text for text, taken in zip(read(), chosen, strict=True) if taken)


def _shards(text: Iterable[Passage]) -> Iterator[list[Passage]]:
    """Group passages into shards of at most SHARD characters; a longer passage is a shard of its own."""
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


_read_once = functools.lru_cache(maxsize=1)(read_tokenizer)  # once for each worker process


def _write_shard(task: tuple[Path, str, int, list[Passage]]) -> dict[str, Any]:
    """Write a shard and the facts about it, unless an earlier attempt did, and return the facts.

    ``task``: the folder, the SHA-256 of its tokenizer, the number of the shard, its text.
    """
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
            "directory and start over"
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
    """Return the facts about a shard, or None if they are missing or unreadable: the shard is then made again."""
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
    """Context manager: an ordered map over ``count`` processes that reads its source only as fast as they work."""
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
                "a worker process was killed, perhaps for lack of memory: lower --processes and repeat the command to "
                "continue"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin_to_work() -> None:
    """Make a worker process ignore interrupts, which its parent handles, and exit when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
