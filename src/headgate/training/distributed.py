"""The group of processes that train one model: those that torchrun started, or this one alone.

Letters: L layers, B batch, H hidden size.
"""

import contextlib
import faulthandler
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed, nn

Loss = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]  # x, y, state -> mean loss, new state
CONNECTING = 600  # seconds; torchrun's processes start within a few seconds of each other


@dataclass(frozen=True)
class Processes:
    """Process ``rank`` of ``world_size``.

    It has the rows rank, rank + world_size, ... of every batch and of the state.
    """

    rank: int = 0
    world_size: int = 1

    @classmethod
    @contextlib.contextmanager
    def joined(cls) -> Iterator["Processes"]:
        """Context manager: join the process group that torchrun started; without torchrun, a group of one.

        A process that has not connected to the others after ten minutes exits.
        """
        if not launched():
            yield cls()
            return
        # After a restart gloo very rarely waits forever for a connection, despite its timeout; torchrun then retries.
        faulthandler.dump_traceback_later(CONNECTING, exit=True)
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        faulthandler.cancel_dump_traceback_later()
        processes = cls(distributed.get_rank(), distributed.get_world_size())
        try:
            yield processes
            processes.barrier()  # no process leaves while another still communicates
        finally:
            distributed.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """True for the process that writes and reports."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all processes have called this."""
        if self.world_size > 1:
            distributed.barrier()

    def share(self, model: nn.Module, loss: Loss) -> Loss:
        """Return ``loss`` with gradients that backward averages over all processes."""
        if self.world_size == 1:
            return loss
        return nn.parallel.DistributedDataParallel(_Module(model, loss))

    def all_reduce(self, loss: float, *wishes: bool) -> tuple[float, ...]:
        """Return the mean loss over all processes, and for each wish whether any process has it."""
        if self.world_size == 1:
            return (loss, *wishes)
        sums = torch.tensor([loss, *map(float, wishes)], dtype=torch.float64)
        distributed.all_reduce(sums)
        loss_sum, *counts = sums.tolist()
        return (loss_sum / self.world_size, *(count > 0 for count in counts))

    def broadcast(self, value: Callable[[], float]) -> float:
        """Compute the value on the first process and return it on all."""
        result = torch.tensor(value() if self.is_main else 0.0, dtype=torch.float64)
        if self.world_size > 1:
            distributed.broadcast(result, 0)
        return result.item()

    def rows(self, state: Tensor) -> Tensor:
        """Return this process's rows, (L, B / world_size, H), of the whole state (L, B, H)."""
        return state[:, self.rank :: self.world_size].contiguous()

    def all_gather_rows(self, state: Tensor) -> Tensor:
        """Gather the whole state (L, B, H) from each process's rows (L, B / world_size, H)."""
        if self.world_size == 1:
            return state
        parts = self.all_gather(state.contiguous())
        return torch.stack(parts, 2).flatten(1, 2)  # row b of part r is row b * world_size + r of all

    def all_gather(self, value: Tensor) -> list[Tensor]:
        """Gather the tensors of all processes, which must have one shape."""
        if self.world_size == 1:
            return [value]
        parts = [torch.empty_like(value) for _ in range(self.world_size)]
        distributed.all_gather(parts, value)
        return parts

    def own_seed(self, seed: int, step: int) -> int:
        """Return a seed unique to this process and step."""
        words = np.random.SeedSequence((seed, step, self.rank)).generate_state(2)
        return int(words[0]) << 31 | int(words[1]) >> 1


class _Module(nn.Module):
    """A module whose forward is the loss, because DistributedDataParallel wraps modules."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, x: Tensor, y: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._loss(x, y, state)


def launched() -> bool:
    """Return True if torchrun started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def on_this_machine() -> tuple[int, int]:
    """Return this process's rank among those on its machine, and their number."""
    return int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def job() -> str:
    """Return the id of the torchrun job, the same after a restart; an empty string if there is none."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "") if launched() else ""
    return "" if name == "none" else name  # torchrun's value without --rdzv-id
