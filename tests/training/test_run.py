"""headgate.train(): training, results, continuation and refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headgate
from headgate.training import run as module
from headgate.training.signals import Signals

SMALL: dict[str, Any] = {
    "limit": 3000,
    "hidden_size": 12,
    "embedding": 7,
    "batch_size": 4,
    "sequence_length": 10,
    "sample_every": 1,
    "quiet": True,
}


def weights(run: module.Run) -> dict[str, np.ndarray]:
    return run.directory.weights()


def test_the_result_gives_access_to_the_trained_model(tmp_path: Path) -> None:
    run = headgate.train("voyage", out=tmp_path / "run", epochs=2, **SMALL)
    assert (run.path, run.ending) == (tmp_path / "run", "finished")
    assert (run.settings.training.epochs, run.settings.model.hidden_size) == (2, 12)
    assert [entry["epoch"] for entry in run.log] == [1, 2]
    assert run.log[1]["perplexity"] < run.log[0]["perplexity"]
    assert run.curve.read_bytes()[:4] == b"\x89PNG"
    assert run._repr_png_() == run.curve.read_bytes()
    model, runtime = run.model(), run.runtime()
    assert not model.training
    ids = runtime.tokenizer.encode("the boat")
    logits, state = model(torch.from_numpy(ids).long()[:, None])
    result, last = runtime.read("the boat")
    np.testing.assert_allclose(result[0], logits[-1, 0].detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last, state.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert len(runtime.generate("the", 5)) == 8


def test_best_and_last_weights(tmp_path: Path) -> None:
    overfit = SMALL | {
        "limit": 400,
        "batch_size": 2,
        "sequence_length": 5,
        "learning_rate": 0.05,
        "schedule": "constant",
    }
    run = headgate.train("voyage", out=tmp_path / "run", epochs=12, dropout=0.0, **overfit)
    losses = [entry["held_out_loss"] for entry in run.log]
    assert min(losses) < losses[-1]  # otherwise this test shows nothing
    assert not torch.equal(run.model().gru.weight_hh_l0, run.model(best=False).gru.weight_hh_l0)
    assert torch.equal(run.model(best=False).gru.weight_hh_l0, torch.from_numpy(weights(run)["gru.weight_hh_l0"]))
    headgate.train(
        "voyage", out=tmp_path / "whole", epochs=1, validation_fraction=0.0, **SMALL
    ).model()  # no best weights were kept


def test_torch_settings_are_restored(tmp_path: Path) -> None:
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    headgate.train("voyage", out=tmp_path / "run", epochs=1, threads=threads + 1, **SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_repeating_the_call_continues(tmp_path: Path) -> None:
    whole = headgate.train("voyage", out=tmp_path / "whole", epochs=4, schedule="constant", **SMALL)
    part = headgate.train("voyage", out=tmp_path / "part", epochs=2, schedule="constant", **SMALL)
    assert any((weights(whole)[name] != value).any() for name, value in weights(part).items())
    assert repr(part) == f"Run(directory=RunDirectory({str(tmp_path / 'part')!r}), ending='finished')"
    log = part.log
    assert headgate.train("voyage", out=tmp_path / "part", epochs=2, schedule="constant", **SMALL).log == log
    part = headgate.train("voyage", out=tmp_path / "part", epochs=4, schedule="constant", **SMALL)
    assert [entry["step"] for entry in part.log] == [entry["step"] for entry in whole.log]
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(weights(part)[name], value)


def test_an_interrupt_saves_and_repeating_the_call_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = headgate.train("voyage", out=tmp_path / "whole", epochs=2, **SMALL)
    asked = []

    def received(self: Signals) -> bool:
        asked.append(1)
        return len(asked) == 5

    with monkeypatch.context() as patch:
        patch.setattr(Signals, "received", received)
        with pytest.raises(KeyboardInterrupt, match=f"interrupted at step 5, saved in {tmp_path}/part"):
            headgate.train("voyage", out=tmp_path / "part", epochs=2, **SMALL)
    part = headgate.train("voyage", out=tmp_path / "part", epochs=2, **SMALL)
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(weights(part)[name], value)


def test_recipes_and_default_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        '[text]\ncorpus = "verses"\nlimit = 2000\n[model]\nhidden_size = 9\n[training]\nepochs = 1\nbatch_size = 3\n'
    )
    paths = [headgate.train(recipe=str(recipe), sequence_length=8, quiet=True).path for _ in range(2)]
    assert paths == [Path("runs/mine"), Path("runs/mine-2")]
    assert (
        headgate.train(
            "voyage", recipe=str(recipe), out="other", sequence_length=8, quiet=True
        ).settings.model.hidden_size
        == 9
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hiden": 5}, "unknown setting 'hiden': did you mean hidden_size"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"corpus": "nowhere.txt"}, "nowhere.txt"),
        ({"limit": 30}, "has 27 tokens, but one batch of 4 sequences of 10 steps needs 51"),
        ({"recipe": "regression"}, "there is no recipe regression: known: "),
    ],
    ids=str,
)
def test_invalid_arguments_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(headgate.InputError, match=message):
        headgate.train(**{"corpus": "voyage", "out": tmp_path / "run", "epochs": 1, **SMALL, **settings})
    assert not (tmp_path / "run").exists()


def test_a_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    first = headgate.train("voyage", out=tmp_path / "run", epochs=1, **SMALL)
    with pytest.raises(headgate.InputError, match="was started with hidden_size = 12, which cannot change"):
        headgate.train("voyage", out=tmp_path / "run", epochs=1, **SMALL | {"hidden_size": 13})
    second = headgate.train("voyage", out=tmp_path / "run", epochs=1, overwrite=True, **SMALL | {"hidden_size": 13})
    assert (first.path, second.settings.model.hidden_size) == (second.path, 13)
