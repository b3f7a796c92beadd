"""The public surface: its names, and that importing the package, or its runtime, loads nothing heavy."""

import subprocess
import sys

import pytest

import headgate
from tests.helpers.imports import BLOCKER


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_public_names() -> None:
    assert headgate.__all__ == [
        "GRU", "GRUCell", "GRUClassifier", "GRUForecaster", "GRURegressor", "InputError", "LanguageModel",
        "Runtime", "SequenceModel", "Settings", "gru", "swap", "train",
    ]  # fmt: skip
    for name in headgate.__all__:
        assert getattr(headgate, name).__doc__
    assert set(headgate.__all__) <= set(dir(headgate))


def test_unknown_name() -> None:
    assert not hasattr(headgate, "LSTM")


def test_import_is_light() -> None:
    loaded = run_python("import sys, headgate; print(*sorted(m.split('.')[0] for m in sys.modules))").split()
    assert not {"torch", "numpy", "matplotlib"} & set(loaded)


def test_runtime_and_command_line_need_no_torch() -> None:
    rooms = "settings storage text runs runtime cli"
    run_python(
        f"{BLOCKER}\nimport importlib, pkgutil, headgate.native\nfor room in {rooms!r}.split():\n"
        "    package = importlib.import_module(f'headgate.{room}')\n"
        "    for module in pkgutil.iter_modules(package.__path__, f'headgate.{room}.'):\n"
        "        importlib.import_module(module.name)"
    )


def test_import_draws_no_random_numbers() -> None:
    code = "import torch; before = torch.get_rng_state(); import headgate.training.loop; "
    run_python(code + "assert torch.equal(before, torch.get_rng_state())")


MISSING = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
try:
    from headgate import {wanted}
except ModuleNotFoundError as error:
    print(error.name, error, sep="\\n")
"""


@pytest.mark.parametrize(
    ("missing", "wanted", "extra"),
    [
        ("torch", "GRU", "train"),
        ("torch", "GRUCell", "train"),
        ("torch", "gru", "train"),
        ("torch", "LanguageModel", "train"),
        ("sklearn", "GRUClassifier", "estimators"),
        ("pandas", "GRUForecaster", "estimators"),
    ],
)
def test_what_to_install_for_a_name(missing: str, wanted: str, extra: str) -> None:
    said = run_python(MISSING.format(missing=[missing], wanted=wanted)).splitlines()
    assert said == [
        missing,
        f"{wanted} needs {missing}, which is not installed: run pip install '.[{extra}]' in a clone of headgate",
    ]


def test_what_to_install_for_an_estimator_without_torch() -> None:
    """In one go, not torch first and scikit-learn after that."""
    said = run_python(MISSING.format(missing=["torch", "sklearn", "pandas"], wanted="GRURegressor"))
    assert said.endswith("run pip install '.[estimators]' in a clone of headgate\n")


def test_a_module_that_nothing_installs_is_named_by_python() -> None:
    said = run_python(MISSING.format(missing=["numpy"], wanted="Runtime"))
    assert said == "numpy\nNo module named 'numpy'\n"
