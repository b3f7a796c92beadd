"""train(): the loop from a text and settings to a model. One step after another, continued exactly where it stopped.

Letters: T time steps, B batch, L layers, H hidden size.
"""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from headgate.batches import Batches
from headgate.configuration import TrainingSettings
from headgate.corpus import Corpus
from headgate.errors import InputError, one_line
from headgate.evaluation import bits_per_character, evaluate, perplexity
from headgate.language_model import LanguageModel, losses_of
from headgate.optimization import check_state, clip_gradients, learning_rate, make_optimizer
from headgate.processes import Loss, Processes
from headgate.report import Report
from headgate.run_directory import Arrays, Checkpoint, RunDirectory
from headgate.runtime import Runtime, check_weights
from headgate.sampling import Sampling

BAD_STEPS = 10  # so many steps in a row without a finite loss and gradient end the run


@dataclass
class Progress:
    """Where a run is; everything in it is saved."""

    step: int = 0  # steps made in all, skipped ones included
    epoch: int = 0
    position: int = 0  # batches of this epoch done
    loss_sum: float = 0.0  # nats over the tokens of this epoch so far
    tokens: int = 0  # predicted in this epoch so far
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_loss: float = math.inf  # the lowest held-out loss
    best_epoch: int = 0
    waited: int = 0  # epochs since
    rate_factor: float = 1.0  # of schedule plateau


@dataclass
class Speed:
    """Tokens a second of the training steps alone, without the first epoch (or its first 100 steps) of the process.

    Until there is more than that, it is the speed of that.
    """

    seconds: float = 0.0
    tokens: int = 0
    cold: float = 0.0  # speed of the warm-up, once that is over

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
    """How training ended: ``finished``, ``stopped early``, ``paused`` at max_steps or ``interrupted``."""

    ending: str
    progress: Progress
    speed: Speed


@dataclass
class Training:
    """What a step changes, apart from the progress; saved with it."""

    model: LanguageModel
    optimizer: torch.optim.Optimizer
    loss: Loss  # that of the model; its gradients are those of all processes
    state: Tensor | None = None  # (L, B, H), this process' rows, carried from batch to batch
    best: dict[str, np.ndarray] = field(default_factory=dict)  # weights with the lowest held-out loss


def train(
    run: RunDirectory,
    corpus: Corpus,
    report: Report,
    *,
    stop: Callable[[], bool] = lambda: False,
    processes: Processes = Processes(),
) -> Result:
    """Train the model of ``run`` on ``corpus`` from its newest checkpoint, or from the start where there is none.

    Seeds torch's generator and sets its number of threads (with several processes, torchrun has). ``stop`` is asked in
    every step; once it says True the step's checkpoint is written and training ends, to be continued by the next call
    as if it had never stopped. Several processes, each of which calls this, compute what one alone computes.
    Raises InputError where the text is too short for a batch, the loss stays infinite, or a checkpoint cannot be
    written; the newest checkpoint is then intact.
    """
    settings = run.settings.training
    batches = Batches.of(corpus.training, settings, rank=processes.rank, world_size=processes.count)
    training, progress = _start_or_continue(run, corpus, processes)
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
        x, y = torch.from_numpy(batch.x), torch.from_numpy(batch.y)
        training.state = training.state.detach() if batch.carry and training.state is not None else None
        late = processes.first and time.monotonic() - saved_at > 60
        loss, norm, stopping, late = _step(training, x, y, rate, settings, processes, stop(), late)

        try:
            _count(progress, loss, rate, batches.tokens)
        except InputError:
            if processes.first:
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
            if processes.first and _sample_due(settings, progress.epoch + 1):
                report.samples(progress.epoch + 1, write_samples(training.model, run, corpus))
            progress.epoch, progress.position = progress.epoch + 1, 0
            progress.loss_sum, progress.tokens = 0.0, 0

        ending = _ending(settings, progress) or ("interrupted" if stopping else "")
        due = progress.step % settings.checkpoint_every == 0 if settings.checkpoint_every else late
        if ending or due:
            _save(run, training, progress, saved_step, processes)
            saved_at, saved_step = time.monotonic(), progress.step
    if ending == "stopped early" and processes.first:
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
    """One optimizer step: x, y (T, B). Returns the mean loss in nats and the gradient norm before clipping, both of all
    processes, and for each of two wishes whether any process has it.

    A loss or gradient that is not finite changes nothing but the carried state, which starts over.
    """
    training.optimizer.zero_grad()
    own = _backward(training, x, y, settings.accumulate)
    norm = clip_gradients(list(training.model.parameters()), settings.clip)
    loss, *wanted = processes.agree(own, *wishes)
    if not math.isfinite(loss + norm):
        training.state = None
        return math.nan, norm, bool(wanted[0]), bool(wanted[1])
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    training.optimizer.step()
    return loss, norm, bool(wanted[0]), bool(wanted[1])


def _backward(training: Training, x: Tensor, y: Tensor, parts: int) -> float:
    """The gradients of the mean loss over x, y (T, B), and that loss; carries the state on. In several parts, each of
    them some rows, one after the other: the same, but for rounding, with less memory."""
    if parts == 1:
        loss, training.state = training.loss(x, y, training.state)
        loss.backward()
        return loss.item()
    total, states = 0.0, []
    for part in range(parts):
        before = None if training.state is None else training.state[:, part::parts].contiguous()
        last = part == parts - 1  # only then are the gradients of all processes brought together
        with contextlib.nullcontext() if last else getattr(training.loss, "no_sync", contextlib.nullcontext)():
            loss, state = training.loss(x[:, part::parts], y[:, part::parts], before)
            (loss / parts).backward()
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
    """Why training ends here; empty where it goes on."""
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
    """Report the epoch so far; at its end (``training`` given) look at the held-out part first."""
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
        losses = losses_of(training.model)
        held_out = processes.of_first(lambda: evaluate(losses, corpus.held_out).loss)
        entry |= {"held_out_loss": held_out, "held_out_perplexity": perplexity(held_out)}
        _compare_with_best(held_out, progress, training, settings)
    if processes.first:
        report.entry(entry, end_of_epoch=training is not None)


def _compare_with_best(loss: float, progress: Progress, training: Training, settings: TrainingSettings) -> None:
    if loss < progress.best_loss:  # False for nan
        progress.best_loss, progress.best_epoch, progress.waited = loss, progress.epoch + 1, 0
        training.best = {name: value.copy() for name, value in arrays_of(training.model).items()}
        return
    progress.waited += 1
    if settings.schedule == "plateau" and progress.waited % settings.plateau == 0:
        progress.rate_factor /= 2


def _sample_due(settings: TrainingSettings, epoch: int) -> bool:
    return settings.sample_every > 0 and (epoch % settings.sample_every == 0 or epoch == settings.epochs)


def write_samples(model: LanguageModel, run: RunDirectory, corpus: Corpus) -> list[str]:
    """What the model writes now after each of the run's prefixes. Draws nothing from torch's generator."""
    settings = run.settings.training
    runtime = Runtime(arrays_of(model), run.settings.model, run.tokenizer, threads=torch.get_num_threads())
    sampling = Sampling(temperature=settings.sample_temperature)
    return [
        runtime.write(prefix, settings.sample_length, sampling, seed=settings.seed)
        for prefix in prefixes(settings, corpus)
    ]


def prefixes(settings: TrainingSettings, corpus: Corpus) -> tuple[str, ...]:
    """What samples start with: the prefixes of the settings, else the first words of the text."""
    lines = [line.strip() for line in corpus.beginning.splitlines() if line.strip()]
    return settings.sample_prefixes or ((lines[0] if lines else corpus.beginning)[:10].strip(),)


def arrays_of(model: LanguageModel) -> dict[str, np.ndarray]:
    """The weights as NumPy arrays that share the model's memory."""
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def _start_or_continue(run: RunDirectory, corpus: Corpus, processes: Processes) -> tuple[Training, Progress]:
    settings = run.settings.training
    if settings.threads and processes.count == 1:
        torch.set_num_threads(settings.threads)
    checkpoint = run.recover() if processes.first else None
    processes.wait()
    if not processes.first:
        checkpoint = run.newest()
    processes.wait()  # before anything is written again
    if checkpoint is not None:  # before a model of that size is made
        _check(checkpoint, run, corpus.tokenizer.vocabulary_size)
    torch.manual_seed(settings.seed)
    model = LanguageModel(run.settings.model, corpus.tokenizer.vocabulary_size, backend=settings.backend)
    loss = processes.share(model, model.loss)
    training = Training(model, make_optimizer(settings, model.parameters()), loss)
    if processes.rank:  # no two processes draw the same dropout
        torch.set_rng_state(processes.generator_state({}, settings.seed, 0))
    if checkpoint is None:
        return training, Progress()
    try:
        return _restore(training, checkpoint, settings, processes)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _misfit(checkpoint, run, error) from None


def _check(checkpoint: Checkpoint, run: RunDirectory, V: int) -> None:
    """InputError unless the weights, the carried state and the progress can be those of such a run."""
    settings = run.settings
    try:
        check_weights(checkpoint.arrays.get("weights", {}), settings.model, V)
        shape = (settings.model.layers, settings.training.batch, settings.model.hidden)
        carried = checkpoint.arrays.get("carried", {}).get("state")
        if carried is not None and (carried.shape != shape or carried.dtype != np.float32):
            raise ValueError(f"the carried state is {carried.dtype} of the shape {carried.shape}, not {shape}")
        if checkpoint.state.keys() != (names := asdict(Progress()).keys()):
            raise ValueError(f"its state names {', '.join(sorted(checkpoint.state.keys() ^ names))}")
        for name, initial in asdict(Progress()).items():
            value = checkpoint.state[name]
            if type(value) is not type(initial) or math.isnan(value):
                raise ValueError(f"{name} must be of the type {type(initial).__name__}, got {value!r}")
            if type(value) is int and not 0 <= value < 2**63:
                raise ValueError(f"{name} cannot be {value!r}")
    except ValueError as error:
        raise _misfit(checkpoint, run, error) from None


def _misfit(checkpoint: Checkpoint, run: RunDirectory, error: Exception) -> InputError:
    return InputError(
        f"the checkpoint of step {checkpoint.step} in {run.path} does not fit its config.json ({one_line(error)}): "
        "restore both, or start again with --overwrite"
    )


def _save(run: RunDirectory, training: Training, progress: Progress, saved_step: int, processes: Processes) -> None:
    """Write a checkpoint of all processes: the first one writes, the others tell it their rows and wait."""
    carried = None if training.state is None else processes.gather_rows(training.state.detach())
    generators = processes.gather(torch.get_rng_state())
    if not processes.first:
        processes.wait()
        return
    arrays: dict[str, Arrays] = {
        "weights": arrays_of(training.model),
        "optimizer": {
            f"{index}.{name}": value.numpy()
            for index, values in training.optimizer.state_dict()["state"].items()
            for name, value in values.items()
            if value is not None
        },
        "random": {f"torch.{rank}" if rank else "torch": state.numpy() for rank, state in enumerate(generators)},
        "carried": {} if carried is None else {"state": carried.numpy()},
    }
    if training.best:
        arrays["best"] = training.best
    try:
        run.save(Checkpoint(progress.step, {k: dict(v) for k, v in arrays.items()}, asdict(progress)))
    except OSError as error:
        before = f"that of step {saved_step} is intact" if saved_step else "there is none before it"
        raise InputError(
            f"the checkpoint of step {progress.step} could not be written to {run.path} ({error.strerror or error}), "
            f"{before}: make room, then continue with --resume"
        ) from error
    processes.wait()


def _restore(
    training: Training, checkpoint: Checkpoint, settings: TrainingSettings, processes: Processes
) -> tuple[Training, Progress]:
    def tensors(group: str) -> dict[str, Tensor]:
        return {name: torch.from_numpy(value.copy()) for name, value in checkpoint.arrays.get(group, {}).items()}

    training.model.load_state_dict(tensors("weights"))
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors("optimizer").items():
        index, _, name = key.partition(".")
        states.setdefault(int(index), {})[name] = value
    check_state(training.optimizer, states)
    groups = training.optimizer.state_dict()["param_groups"]
    training.optimizer.load_state_dict({"state": states, "param_groups": groups})
    carried = tensors("carried").get("state")
    training.state = None if carried is None else processes.rows(carried)
    training.best = checkpoint.arrays.get("best", {})
    torch.set_rng_state(processes.generator_state(checkpoint.arrays["random"], settings.seed, checkpoint.step))
    return training, Progress(**checkpoint.state)
