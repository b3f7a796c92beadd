"""Fixtures of several test files: the textbook's corpora, a seed, and a comparison of tensors."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent

for _number in (
    signal.SIGINT,
    signal.SIGHUP,
):  # nohup and background jobs ignore them, and child processes inherit that
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder with the textbook's corpora; skip the test if it is missing."""
    folder = Path(os.environ.get("HEADGATE_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "timemachine.txt").is_file() or not (folder / "jaychou_lyrics.txt.zip").is_file():
        pytest.skip(f"the textbook's corpora are not in {folder} (set HEADGATE_DATA)")
    return folder


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """Run every test with the same seed and one thread, because its tensors are too small for more."""
    torch.manual_seed(1)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """Return assert_close(name, value, expected, tolerance), which names the worst index and both values."""

    def check(name: str, value: Tensor, expected: Tensor, tolerance: float) -> None:
        assert value.shape == expected.shape, f"{name}: shape {tuple(value.shape)}, expected {tuple(expected.shape)}"
        if not value.numel():
            return
        difference = (value.double() - expected.double()).abs()
        difference = torch.where(difference.isnan(), torch.inf, difference)
        worst = int(difference.argmax())
        assert difference.flatten()[worst] <= tolerance, (
            f"{name} differs by {difference.flatten()[worst]:.2e} > {tolerance:.0e} at "
            f"{tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), value.shape))}: "
            f"{value.flatten()[worst]} instead of {expected.flatten()[worst]}"
        )

    return check
