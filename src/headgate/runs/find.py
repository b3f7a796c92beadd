"""Names of runs: the directory that an argument refers to, and the directory of a new run."""

from collections.abc import Collection
from pathlib import Path

from headgate.console import tell
from headgate.errors import InputError, similar
from headgate.runs.run_directory import is_run
from headgate.storage.files import estimator_in

RUNS = Path("runs")
PRETRAINED = Path(__file__).parent / "pretrained"  # run directories that come with the package


def default_directory(name: str, *, newest: bool = False, taken: Collection[Path] = ()) -> Path:
    """Return the first of runs/NAME, runs/NAME-2, ... that is free and not ``taken``, or the last one in use."""
    path = free = RUNS / name
    number = 1
    while is_run(free) or free.is_file() or free in taken:
        path, number = free, number + 1
        free = path.with_name(f"{name}-{number}")
    return path if newest else free


def find_run(name: str | None) -> Path:
    """Return the run that a command's argument names: that path, else runs/NAME, else a model that comes with headgate.

    Without an argument, return the newest run under runs/ and name it on standard error. Raises InputError if there is
    no such run.
    """
    if name is None:
        newest = _newest()
        tell(f"the newest run: {newest}")
        return newest
    for path in (Path(name), RUNS / name, PRETRAINED / name):
        if is_run(path):
            return path
    if Path(name).exists():
        return Path(name)  # opening it says what is wrong with it
    known = [path.name for folder in (RUNS, PRETRAINED) for path in _runs_in(folder)]
    close = similar(name, known)
    hint = f"did you mean {' or '.join(close)}?" if close else "'headgate runs' lists those under runs/"
    raise InputError(f"there is no run {name}: {hint}")


def _newest() -> Path:
    """Return the run under runs/ whose weights were written last."""
    trained = {
        path: (path / "model.safetensors").stat().st_mtime
        for path in _runs_in(RUNS)
        if (path / "model.safetensors").exists() and not estimator_in(path)
    }
    if not trained:
        packaged = ", ".join(path.name for path in _runs_in(PRETRAINED))
        raise InputError(
            "there is no trained run under runs/: train one (headgate train), or name one"
            + (f" that comes with headgate: {packaged}" if packaged else "")
        )
    return max(trained, key=lambda path: trained[path])


def _runs_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_run(path)) if folder.is_dir() else []
