"""The state of training: at its start, saved in a checkpoint, and restored from one.

Letters: L layers, B batch, H hidden size, V vocabulary.
"""

import math
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from headgate.errors import InputError, one_line
from headgate.models.language_model import LanguageModel, numpy_weights
from headgate.runs.checkpoint import Arrays, Checkpoint
from headgate.runs.run_directory import RunDirectory
from headgate.settings.run import TrainingSettings
from headgate.settings.weights import check_weights
from headgate.text.tokenizer import Tokenizer
from headgate.training.device import Device
from headgate.training.distributed import Loss, Processes, on_this_machine
from headgate.training.optimization import check_state, make_optimizer


@dataclass
class Progress:
    """The counters of a run; all are saved in checkpoints."""

    step: int = 0  # steps so far, skipped ones included
    epoch: int = 0
    position: int = 0  # batches done in this epoch
    loss_sum: float = 0.0  # nats, over the tokens so far in this epoch
    tokens: int = 0  # predicted so far in this epoch
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_loss: float = math.inf  # the lowest held-out loss
    best_epoch: int = 0
    waited: int = 0  # epochs since the best one
    rate_factor: float = 1.0  # of schedule plateau
    scaling: dict[str, float] = field(default_factory=dict)  # state of the loss scaling, in float16


@dataclass
class Training:
    """Everything a step changes except the counters in Progress; saved with them."""

    model: LanguageModel
    optimizer: torch.optim.Optimizer
    loss: Loss  # the model's, with gradients averaged over all processes
    device: Device
    state: Tensor | None = None  # (L, B, H), this process's rows, carried from batch to batch
    best: dict[str, np.ndarray] = field(default_factory=dict)  # weights with the lowest held-out loss


def start_or_continue(run: RunDirectory, tokenizer: Tokenizer, processes: Processes) -> tuple[Training, Progress]:
    """Restore a run from its newest checkpoint, or start it if it has none; every process calls this.

    Seeds torch's generator and sets its number of threads (with several processes, torchrun has set it). Raises
    InputError if the checkpoint does not fit the run.
    """
    settings = run.settings.training
    if settings.threads and processes.world_size == 1:
        torch.set_num_threads(settings.threads)
    checkpoint = run.recover() if processes.is_main else None
    processes.barrier()
    if not processes.is_main:
        checkpoint = run.newest()
    processes.barrier()  # before anything is written again
    if checkpoint is not None:  # before a model of that size is allocated
        _check(checkpoint, run, tokenizer.vocabulary_size)
    torch.manual_seed(settings.seed)
    model = LanguageModel(
        run.settings.model, tokenizer.vocabulary_size, document_id=tokenizer.document_id, backend=settings.backend
    )
    device = Device.of(settings.device, settings.precision, number=on_this_machine()[0])
    model.to(device.place)
    loss = processes.share(model, model.loss)
    training = Training(model, make_optimizer(settings, model.parameters()), loss, device)
    if processes.rank:  # no two processes draw the same dropout
        torch.manual_seed(processes.own_seed(settings.seed, 0))
    if checkpoint is None:
        return training, Progress()
    try:
        return _restore(training, checkpoint, settings, processes)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _misfit(checkpoint, run, error) from None


def _check(checkpoint: Checkpoint, run: RunDirectory, V: int) -> None:
    """Raise InputError unless weights, carried state and progress of the checkpoint fit the run."""
    settings = run.settings
    try:
        check_weights(checkpoint.arrays.get("weights", {}), settings.model, V)
        if "best" in checkpoint.arrays:
            check_weights(checkpoint.arrays["best"], settings.model, V)
        shape = (settings.model.num_layers, settings.training.batch_size, settings.model.hidden_size)
        carried = checkpoint.arrays.get("carried", {}).get("state")
        if carried is not None and (carried.shape != shape or carried.dtype != np.float32):
            raise ValueError(f"the carried state must be float32 {shape}, got {carried.dtype} {carried.shape}")
        if checkpoint.state.keys() != (names := asdict(Progress()).keys()):
            raise ValueError(f"its state lacks or adds {', '.join(sorted(checkpoint.state.keys() ^ names))}")
        for name, initial in asdict(Progress()).items():
            value = checkpoint.state[name]
            if type(value) is not type(initial):
                raise ValueError(f"{name} must be of type {type(initial).__name__}, got {value!r}")
            numbers = value.values() if isinstance(value, dict) else [value]
            if not all((type(n) in (int, float) and 0 <= n < 2**63) or n == math.inf for n in numbers):
                raise ValueError(f"{name} must be a non-negative number below 2**63 or infinity, got {value!r}")
    except ValueError as error:
        raise _misfit(checkpoint, run, error) from None


def _misfit(checkpoint: Checkpoint, run: RunDirectory, error: Exception) -> InputError:
    return InputError(
        f"the checkpoint of step {checkpoint.step} in {run.path} does not fit its config.json ({one_line(error)}): "
        "restore both, or start again with --overwrite"
    )


def save(run: RunDirectory, training: Training, progress: Progress, saved_step: int, processes: Processes) -> None:
    """Write a checkpoint of all processes: the others send their rows to the first, which writes, and wait."""
    carried = None if training.state is None else processes.all_gather_rows(training.state.detach().float().cpu())
    generators = processes.all_gather(training.device.random_state())
    if not processes.is_main:
        processes.barrier()
        return
    arrays: dict[str, Arrays] = {
        "weights": numpy_weights(training.model),
        "optimizer": {
            f"{index}.{name}": value.cpu().numpy()
            for index, values in training.optimizer.state_dict()["state"].items()
            for name, value in values.items()
            if value is not None
        },
        "random": {f"torch.{rank}" if rank else "torch": state.numpy() for rank, state in enumerate(generators)},
        "carried": {} if carried is None else {"state": carried.numpy()},
    }
    progress.scaling = training.device.scaling
    if training.best:
        arrays["best"] = training.best
    try:
        run.save(Checkpoint(progress.step, {k: dict(v) for k, v in arrays.items()}, asdict(progress)))
    except OSError as error:
        before = f"that of step {saved_step} is intact" if saved_step else "there is no earlier one"
        raise InputError(
            f"the checkpoint of step {progress.step} could not be written to {run.path} ({error.strerror or error}), "
            f"and {before}: free some space, then continue with --resume"
        ) from error
    processes.barrier()


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
    training.state = None if carried is None else processes.rows(carried).to(training.device.place)
    training.best = checkpoint.arrays.get("best", {})
    saved = checkpoint.arrays["random"].get(f"torch.{processes.rank}" if processes.rank else "torch")
    if saved is None:  # there were fewer processes
        torch.manual_seed(processes.own_seed(settings.seed, checkpoint.step))
    else:
        training.device.set_random_state(torch.from_numpy(saved.copy()))
    progress = Progress(**checkpoint.state)
    training.device.scaling = progress.scaling
    return training, progress
