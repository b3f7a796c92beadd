"""Measure the tokens per second of training: each recipe against the textbook's procedure, in turn, in one process.

The textbook's procedures (from scratch and concise) are rewritten here as its chapter describes them: one-hot tensors,
six products per step or torch.nn.GRU, clipping that loops over the parameters, SGD by hand or torch.optim. Before
anything is timed, both must produce the same losses from the same weights. Corpora are located as by ``headgate
train``; random ids of the same number and vocabulary replace a missing one, and the output says so.

    python benchmarks/training.py [--threads 2] [--rounds 7] [--epochs 6]
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from headgate.errors import InputError
from headgate.models.language_model import LanguageModel
from headgate.runs.run_directory import RunDirectory
from headgate.settings import recipe as recipes
from headgate.settings.run import Settings
from headgate.text import corpus as corpora
from headgate.text.batches import Batches
from headgate.text.characters import CharacterTokenizer
from headgate.text.corpus import Corpus
from headgate.training.loop import train
from headgate.training.optimization import clip_gradients, make_optimizer
from headgate.training.report import Report
from rounds import conclude, machine

CASES = {  # recipe, reset: least speed-up
    ("lyrics-scratch", "after"): 4.5,
    ("lyrics-scratch", "before"): 4.5,
    ("lyrics-concise", "after"): 3.0,
    ("time-machine-scratch", "before"): 3.8,
    ("time-machine-concise", "after"): 2.8,
}


class Scratch:
    """The textbook's GRU from scratch: separate matrices for each gate, and a loop over steps of one-hot rows."""

    def __init__(self, model: LanguageModel, settings: Settings) -> None:
        H = settings.model.hidden_size
        split = [w.split(H) for w in (model.gru.weight_ih_l0, model.gru.weight_hh_l0, model.gru.bias_ih_l0)]
        self.reset = settings.model.reset
        self.parameters = [
            value.detach().t().clone().requires_grad_() for gate in range(3) for value in (s[gate] for s in split)
        ] + [model.head.weight.detach().t().clone().requires_grad_(), model.head.bias.detach().clone().requires_grad_()]

    def __call__(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        W_xr, W_hr, b_r, W_xz, W_hz, b_z, W_xn, W_hn, b_n, W_hq, b_q = self.parameters
        outputs = []
        for x_t in nn.functional.one_hot(x, W_xr.shape[0]).float():
            Z = torch.sigmoid(x_t @ W_xz + h @ W_hz + b_z)
            R = torch.sigmoid(x_t @ W_xr + h @ W_hr + b_r)
            if self.reset == "before":
                candidate = torch.tanh(x_t @ W_xn + (R * h) @ W_hn + b_n)
            else:
                candidate = torch.tanh(x_t @ W_xn + R * (h @ W_hn) + b_n)
            h = Z * h + (1 - Z) * candidate
            outputs.append(h @ W_hq + b_q)
        return torch.cat(outputs), h

    def make_step(self, rate: float) -> None:
        with torch.no_grad():
            for p in self.parameters:
                p -= rate * p.grad
                p.grad.zero_()


class Concise:
    """The textbook's concise GRU: one-hot tensor, torch.nn.GRU, linear layer, torch.optim."""

    def __init__(self, model: LanguageModel, settings: Settings) -> None:
        V, H = model.head.weight.shape
        self.gru, self.head = nn.GRU(V, H), nn.Linear(H, V)
        self.gru.load_state_dict(model.gru.state_dict())
        self.head.load_state_dict(model.head.state_dict())
        self.parameters = [*self.gru.parameters(), *self.head.parameters()]
        kind = torch.optim.SGD if settings.training.optimizer == "sgd" else torch.optim.Adam
        self.optimizer = kind(self.parameters, lr=settings.training.learning_rate)

    def __call__(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        V = self.head.weight.shape[0]
        outputs, h = self.gru(nn.functional.one_hot(x, V).float(), h[None])
        return self.head(outputs.reshape(-1, outputs.shape[-1])), h[0]

    def make_step(self, rate: float) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


def book_epoch(book: Scratch | Concise, batches: Batches, epoch: int, settings: Settings) -> list[float]:
    """Train one epoch with the textbook's procedure and return the loss of each step."""
    losses, h = [], torch.zeros(settings.training.batch_size, settings.model.hidden_size)
    for step in range(batches.per_epoch):
        batch = batches.at(epoch, step)
        x, y = torch.from_numpy(batch.x), torch.from_numpy(batch.y)
        logits, h = book(x, h.detach())
        loss = nn.functional.cross_entropy(logits, y.flatten())
        loss.backward()
        if settings.training.clip:
            norm = torch.sqrt(sum((p.grad**2).sum() for p in book.parameters)).item()
            if norm > settings.training.clip:
                for p in book.parameters:
                    p.grad *= settings.training.clip / norm
        book.make_step(settings.training.learning_rate)
        losses.append(loss.item())
    return losses


def parity_gate(corpus: Corpus, settings: Settings) -> float:
    """Train both for one epoch from the same weights and return the largest relative difference of their losses.

    Exits if it is above 1e-4.
    """
    torch.manual_seed(0)
    model = LanguageModel(settings.model, corpus.tokenizer.vocabulary_size)
    book = book_of(model, settings)
    batches = Batches.of(corpus.training, settings.training)
    theirs = book_epoch(book, batches, 0, settings)
    optimizer, state, worst = make_optimizer(settings.training, model.parameters()), None, 0.0
    for step, expected in enumerate(theirs):
        batch = batches.at(0, step)
        logits, state = model(torch.from_numpy(batch.x), state.detach() if batch.carry else None)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.y).flatten())
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(list(model.parameters()), settings.training.clip)
        optimizer.step()
        worst = max(worst, abs(loss.item() - expected) / expected)
    if not worst < 1e-4:
        raise SystemExit(f"the two procedures disagree (relative difference of a loss: {worst:.1e}): nothing was timed")
    return worst


def book_of(model: LanguageModel, settings: Settings) -> Scratch | Concise:
    return (Scratch if settings.model.initialization == "normal" else Concise)(model, settings)


def our_tokens_per_second(corpus: Corpus, settings: Settings, epochs: int) -> float:
    """Measure ``headgate train``, including batches, reports and checkpoints, but without its first epoch."""
    short = replace(settings, training=replace(settings.training, epochs=epochs + 1, sample_every=0))
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder), short, corpus.tokenizer, {})
        return train(run, corpus, Report(run, quiet=True)).speed.tokens_per_second


def book_tokens_per_second(corpus: Corpus, settings: Settings, epochs: int) -> float:
    torch.manual_seed(0)
    book = book_of(LanguageModel(settings.model, corpus.tokenizer.vocabulary_size), settings)
    batches = Batches.of(corpus.training, settings.training)
    book_epoch(book, batches, 0, settings)
    began = time.perf_counter()
    for epoch in range(1, epochs + 1):
        book_epoch(book, batches, epoch, settings)
    return epochs * batches.per_epoch * batches.tokens / (time.perf_counter() - began)


def find_corpus(settings: Settings) -> tuple[Corpus, str]:
    try:
        return corpora.load(settings.text), settings.text.corpus
    except InputError:
        size = 1027 if settings.text.corpus == "jay-lyrics" else 27
        generator = np.random.default_rng(0)
        characters = "".join(chr(0x4E00 + i) for i in range(size))
        tokenizer = CharacterTokenizer(characters, characters[0] if size == 1027 else None)
        ids = generator.integers(tokenizer.vocabulary_size, size=10000).astype(np.int32)
        return Corpus(ids, ids[:0], tokenizer, len(ids), characters[:10], ""), f"random ids of {size} characters"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--backend", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine(options.threads))
    print(f"medians of {options.rounds} rounds of {options.epochs} epochs each, the textbook's and ours in turn\n")
    print(f"{'recipe':<22} {'reset':<7} {'book, tokens/s':>15} {'ours, tokens/s':>15} {'ratio':>7}   parity")
    results, goals = [], {}
    for (name, reset), least in CASES.items():
        settings = recipes.load(name).settings.replaced(reset=reset, backend=options.backend, threads=options.threads)
        corpus, source = find_corpus(settings)
        parity = parity_gate(corpus, settings)
        measured = (book_tokens_per_second, our_tokens_per_second)
        pairs = [tuple(f(corpus, settings, options.epochs) for f in measured) for _ in range(options.rounds)]
        book, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(mine / theirs for theirs, mine in pairs)
        print(
            f"{name:<22} {reset:<7} {book:>15,.0f} {ours:>15,.0f} {ratio:>6.2f}x   {parity:.0e}  {source}", flush=True
        )
        results.append({"recipe": name, "reset": reset, "book": book, "ours": ours, "ratio": ratio, "corpus": source})
        goals[f"training {name}, reset {reset}"] = (ratio, least)
    conclude(goals, threads=options.threads, machine=machine(options.threads), results=results)


if __name__ == "__main__":
    main()
