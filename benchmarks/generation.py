"""Time text generation against the textbook's predict loop, and single steps against torch.nn.GRUCell.

The textbook predicts one character at a time: one-hot tensor, torch.nn.GRU (or the gates from scratch), linear layer,
argmax. Both of its loops are timed and the faster one counts. Before anything is timed, all must write the same text.

    python benchmarks/generation.py [--threads 2] [--rounds 9]
"""

import numpy as np
import torch
from torch import Tensor, nn

from headgate import LanguageModel, Runtime, native
from headgate.models.language_model import numpy_weights
from headgate.settings.run import ModelSettings
from headgate.text.characters import CharacterTokenizer
from rounds import conclude, in_turn, machine, ratio, start

H, LENGTH = 256, 1000
GOALS = {28: 15.0, 1027: 8.0}  # vocabulary size: least speed-up
STEP = 4.0


class Concise:
    """The textbook's prediction loop with torch.nn.GRU."""

    def __init__(self, model: LanguageModel) -> None:
        V = len(model.head.weight)
        self.gru, self.head, self.V = nn.GRU(V, H), model.head, V
        self.gru.load_state_dict(model.gru.state_dict())

    def predict(self, id: int, length: int) -> list[int]:
        ids, state = [id], torch.zeros(1, 1, H)
        for _ in range(length):
            x = torch.tensor([ids[-1]]).view(1, 1)
            outputs, state = self.gru(nn.functional.one_hot(x, self.V).float(), state)
            ids.append(int(self.head(outputs.view(-1, H)).argmax(dim=1).item()))
        return ids


class Scratch:
    """The textbook's prediction loop with every gate written out."""

    def __init__(self, model: LanguageModel) -> None:
        gru = model.gru
        self.V = len(model.head.weight)
        self.W_x = [w.t().contiguous() for w in gru.weight_ih_l0.split(H)]
        self.W_h = [w.t().contiguous() for w in gru.weight_hh_l0.split(H)]
        self.b = gru.bias_ih_l0.split(H)
        self.W_q, self.b_q = model.head.weight.t().contiguous(), model.head.bias

    def predict(self, id: int, length: int) -> list[int]:
        ids, h = [id], torch.zeros(1, H)
        for _ in range(length):
            x = nn.functional.one_hot(torch.tensor([ids[-1]]), self.V).float()
            r = torch.sigmoid(x @ self.W_x[0] + h @ self.W_h[0] + self.b[0])
            z = torch.sigmoid(x @ self.W_x[1] + h @ self.W_h[1] + self.b[1])
            n = torch.tanh(x @ self.W_x[2] + r * (h @ self.W_h[2]) + self.b[2])
            h = z * h + (1 - z) * n
            ids.append(int((h @ self.W_q + self.b_q).argmax(dim=1).item()))
        return ids


def model_of(V: int) -> tuple[LanguageModel, Runtime, str]:
    """Return a model with weights large enough for varied text, its runtime and its characters."""
    characters = "".join(chr(0x4E00 + i) for i in range(V))
    tokenizer = CharacterTokenizer(characters, characters[0])
    settings = ModelSettings(hidden_size=H, embedding=0, dropout=0.0)
    model = LanguageModel(settings, tokenizer.vocabulary_size).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
        model.gru.bias_hh_l0.zero_()
    return model, Runtime(numpy_weights(model), settings, tokenizer, threads=torch.get_num_threads()), characters


def writing(V: int, rounds: int) -> float:
    model, runtime, characters = model_of(V)
    loops = [Concise(model), Scratch(model)]
    with torch.no_grad():
        texts = {"".join(characters[i] for i in loop.predict(1, 200)) for loop in loops}
        if texts != {runtime.generate(characters[1], 200)}:
            raise SystemExit("the textbook's loops and the runtime write different texts: nothing was timed")
        times = in_turn(
            [*(lambda m=m: m.predict(1, LENGTH) for m in loops), lambda: runtime.generate(characters[1], LENGTH)],
            rounds,
        )
    theirs = min(times[:2], key=lambda t: sorted(t)[rounds // 2])
    for name, seconds in zip(("textbook, torch.nn.GRU", "textbook, scratch", "headgate"), times, strict=True):
        print(f"V={V:<5} {name:<22} {sorted(seconds)[rounds // 2] / LENGTH * 1e6:8.1f} us per character")
    return ratio(theirs, times[2])


def stepping(rounds: int) -> float:
    """Time one step from Python: nn.GRUCell in inference mode against a Runtime, including its head (V = 28)."""
    _, runtime, _ = model_of(28)
    cell, x = nn.GRUCell(28, H), torch.randn(1, 28)
    state, token = runtime.initial_state(), np.array([3])

    def cell_steps(h: Tensor = torch.zeros(1, H)) -> None:
        with torch.inference_mode():
            for _ in range(100):
                h = cell(x, h)

    def runtime_steps() -> None:
        h = state
        for _ in range(100):
            _, h = runtime.step(token, h)

    times = in_turn([cell_steps, runtime_steps], rounds)
    for name, seconds in zip(("torch.nn.GRUCell", "headgate, with head"), times, strict=True):
        print(f"{name:<30} {sorted(seconds)[rounds // 2] * 1e4:8.1f} us per step")
    return ratio(*times)


def main() -> None:
    options = start(__doc__)
    goals = {f"writing, V={V}": (writing(V, options.rounds), least) for V, least in GOALS.items()}
    goals["one step"] = (stepping(options.rounds), STEP)
    print("\n" + "\n".join(f"{name}: {speedup:.1f}x" for name, (speedup, _) in goals.items()))
    conclude(goals, threads=options.threads, machine=machine(options.threads))


if __name__ == "__main__":
    assert native.load() is not None, native.MISSING
    main()
