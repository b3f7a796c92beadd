"""train(): the loop that trains a language model on a text; a stopped run continues exactly where it ended.

Letters: T time steps, B batch, L layers, H hidden size.
"""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from headgate.errors import InputError
from headgate.models.language_model import LanguageModel, evaluation_losses, numpy_weights
from headgate.runs.run_directory import RunDirectory
from headgate.runtime.evaluation import bits_per_character, evaluate, perplexity
from headgate.runtime.runtime import Runtime
from headgate.runtime.sampling import seed_of
from headgate.settings.run import TrainingSettings
from headgate.text.batches import Batches
from headgate.text.corpus import Corpus
from headgate.training.distributed import Processes
from headgate.training.optimization import learning_rate, take_step
from headgate.training.report import Report
from headgate.training.state import Progress, Training, save, start_or_continue

BAD_STEPS = 10  # consecutive steps without a finite loss and gradient that end the run


@dataclass
class Speed:
    """Tokens per second of the training steps alone, without the warm-up: the process's first epoch or 100 steps.

    During the warm-up, the speed so far.
    """

    seconds: float = 0.0
    tokens: int = 0
    cold: float = 0.0  # speed during the warm-up, 0 until it is over

    def add(self, seconds: float, tokens: int) -> None:
        self.seconds += seconds
        self.tokens += tokens

    def warmed_up(self) -> None:
        if not self.cold:
            self.cold, self.seconds, self.tokens = self.tokens_per_second, 0.0, 0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else self.cold


@dataclass
class Result:
    """The end of training; ``ending`` is finished, stopped early, paused (at max_steps) or interrupted."""

    ending: str
    progress: Progress
    speed: Speed


def train(
    run: RunDirectory,
    corpus: Corpus,
    report: Report,
    *,
    stop: Callable[[], bool] = lambda: False,
    processes: Processes = Processes(),
) -> Result:
    """Train the model of ``run`` on ``corpus`` from its newest checkpoint, or from the start if it has none.

    Seeds torch's generator and sets its number of threads (with several processes, torchrun has set it). ``stop`` is
    called in every step; once it returns True, training writes a checkpoint after the step and ends, and the next call
    continues as if it had never stopped. Several processes that each call this compute the same as one alone.

    Raises InputError if the text is too short for a batch, the loss stays non-finite, or a checkpoint cannot be
    written; the previous checkpoint is then intact.
    """
    settings = run.settings.training
    batches = Batches.of(corpus.training, settings, rank=processes.rank, world_size=processes.world_size)
    training, progress = start_or_continue(run, corpus.tokenizer, processes)
    if progress.position >= batches.per_epoch:
        raise InputError(
            f"the checkpoint in {run.path} is {progress.position} batches into an epoch of {batches.per_epoch}: "
            "restore another, or start again with --overwrite"
        )
    total = settings.epochs * batches.per_epoch
    speed, saved_at, saved_step = Speed(), time.monotonic(), progress.step
    report.begin(progress.step, total)
    ending = _ending(settings, progress)
    while not ending:
        began = time.perf_counter()
        batch = batches.at(progress.epoch, progress.position)
        rate = learning_rate(settings, progress.step, total) * progress.rate_factor
        x, y = (torch.from_numpy(v).to(training.device.place) for v in (batch.x, batch.y))
        training.state = training.state.detach() if batch.carry and training.state is not None else None
        late = processes.is_main and time.monotonic() - saved_at > 60
        loss, norm, stopping, late = _step(training, x, y, rate, settings, processes, stop(), late)

        try:
            _count(progress, loss, rate, batches.tokens)
        except InputError:
            if processes.is_main:
                report.diverged(progress.step, progress.epoch + 1)
            raise
        speed.add(time.perf_counter() - began, batches.tokens)
        epoch_done = progress.position == batches.per_epoch
        if epoch_done or progress.position == 100:
            speed.warmed_up()
        report.step(progress.step, loss, speed.tokens_per_second)
        if epoch_done or progress.position % settings.report_every == 0:
            _report(report, progress, corpus, speed, norm, rate, training if epoch_done else None, settings, processes)
        if epoch_done:
            if processes.is_main and _sample_due(settings, progress.epoch + 1):
                report.samples(progress.epoch + 1, write_samples(training.model, run, corpus))
            progress.epoch, progress.position = progress.epoch + 1, 0
            progress.loss_sum, progress.tokens = 0.0, 0

        ending = _ending(settings, progress) or ("interrupted" if stopping else "")
        due = progress.step % settings.checkpoint_every == 0 if settings.checkpoint_every else late
        if ending or due:
            save(run, training, progress, saved_step, processes)
            saved_at, saved_step = time.monotonic(), progress.step
    if ending == "stopped early" and processes.is_main:
        run.use_best()
    return Result(ending, progress, speed)


def _step(
    training: Training,
    x: Tensor,
    y: Tensor,
    rate: float,
    settings: TrainingSettings,
    processes: Processes,
    *wishes: bool,
) -> tuple[float, float, bool, bool]:
    """Make one optimizer step on x, y (T, B).

    Returns the mean loss in nats and the gradient norm before clipping, both over all processes, and for each of two
    wishes whether any process has it. If the loss or gradient is not finite, only the carried state changes: it starts
    over.
    """
    training.optimizer.zero_grad()
    own = _backward(training, x, y, settings.accumulate)
    loss, *granted = processes.all_reduce(own, *wishes)
    norm = take_step(training.optimizer, training.device, loss, rate=rate, clip=settings.clip)
    if not math.isfinite(loss + norm):
        training.state, loss = None, math.nan
    return loss, norm, bool(granted[0]), bool(granted[1])


def _backward(training: Training, x: Tensor, y: Tensor, parts: int) -> float:
    """Backpropagate the mean loss over x, y (T, B), update the carried state and return the loss.

    With ``parts`` > 1, accumulate gradients over that many micro-batches of rows: the same result up to rounding, in
    less memory.
    """
    if parts == 1:
        with training.device.autocast():
            loss, training.state = training.loss(x, y, training.state)
        training.device.backward(loss)
        return loss.item()
    total, states = 0.0, []
    for part in range(parts):
        before = None if training.state is None else training.state[:, part::parts].contiguous()
        last = part == parts - 1  # only this part reduces the gradients of all processes
        with contextlib.nullcontext() if last else getattr(training.loss, "no_sync", contextlib.nullcontext)():
            with training.device.autocast():
                loss, state = training.loss(x[:, part::parts], y[:, part::parts], before)
            training.device.backward(loss / parts)
        total += loss.item() / parts
        states.append(state.detach())
    training.state = torch.stack(states, 2).flatten(1, 2)  # row b of part p is row b * parts + p
    return total


def _count(progress: Progress, loss: float, rate: float, tokens: int) -> None:
    progress.step += 1
    progress.position += 1
    if math.isnan(loss):
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        if progress.skipped_in_a_row == BAD_STEPS:
            raise InputError(
                f"the loss or its gradient was not finite in {BAD_STEPS} steps in a row, up to step {progress.step}: "
                f"start again with a lower --learning-rate (it was {rate:g}); earlier checkpoints are untouched"
            )
    else:
        progress.skipped_in_a_row = 0
        progress.loss_sum += loss * tokens
        progress.tokens += tokens


def _ending(settings: TrainingSettings, progress: Progress) -> str:
    """Return the reason why training ends here, or an empty string if it continues."""
    if settings.patience and progress.waited >= settings.patience:
        return "stopped early"
    if progress.epoch >= settings.epochs:
        return "finished"
    if settings.max_steps and progress.step >= settings.max_steps:
        return "paused"
    return ""


def _report(
    report: Report,
    progress: Progress,
    corpus: Corpus,
    speed: Speed,
    norm: float,
    rate: float,
    training: Training | None,
    settings: TrainingSettings,
    processes: Processes,
) -> None:
    """Report the epoch so far; at its end (``training`` is not None) evaluate the held-out part first."""
    loss = progress.loss_sum / progress.tokens if progress.tokens else math.nan
    entry = {
        "step": progress.step,
        "epoch": progress.epoch + 1,
        "tokens": progress.tokens,
        "loss": loss,
        "perplexity": perplexity(loss),
        "bits_per_character": bits_per_character(loss, corpus.characters_per_token),
        "gradient_norm": norm,
        "learning_rate": rate,
        "skipped": progress.skipped,
        "tokens_per_second": speed.tokens_per_second,
    }
    if training and len(corpus.held_out):
        losses = evaluation_losses(training.model)
        held_out = processes.broadcast(lambda: evaluate(losses, corpus.held_out).loss)
        entry |= {"held_out_loss": held_out, "held_out_perplexity": perplexity(held_out)}
        _compare_with_best(held_out, progress, training, settings)
    if processes.is_main:
        report.entry(entry, end_of_epoch=training is not None)


def _compare_with_best(loss: float, progress: Progress, training: Training, settings: TrainingSettings) -> None:
    if loss < progress.best_loss:  # False for nan
        progress.best_loss, progress.best_epoch, progress.waited = loss, progress.epoch + 1, 0
        training.best = {name: value.copy() for name, value in numpy_weights(training.model).items()}
        return
    progress.waited += 1
    if settings.schedule == "plateau" and progress.waited % settings.plateau == 0:
        progress.rate_factor /= 2


def _sample_due(settings: TrainingSettings, epoch: int) -> bool:
    return settings.sample_every > 0 and (epoch % settings.sample_every == 0 or epoch == settings.epochs)


def write_samples(model: LanguageModel, run: RunDirectory, corpus: Corpus) -> list[str]:
    """Generate a sample from each of the run's prefixes, without drawing from torch's generator."""
    settings = run.settings.training
    runtime = Runtime(numpy_weights(model), run.settings.model, run.tokenizer, threads=torch.get_num_threads())
    return [
        runtime.generate(
            prefix, settings.sample_length, temperature=settings.sample_temperature, seed=seed_of(settings.seed, number)
        )
        for number, prefix in enumerate(prefixes(settings, corpus))
    ]


def prefixes(settings: TrainingSettings, corpus: Corpus) -> tuple[str, ...]:
    """Return the prefixes of the samples: those of the settings, or the text's first words, up to ten characters."""
    if settings.sample_prefixes:
        return settings.sample_prefixes
    line = next((line.strip() for line in corpus.beginning.splitlines() if line.strip()), "")
    start = line[:10]
    if " " in start and (start[-1:] + line[10:11]).isalnum() and len(line) > 10:  # cut in the middle of a word
        start = start.rpartition(" ")[0]
    return (start.strip(),)
