"""The processes that train one model together: those that torchrun started, or this one alone.

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
CONNECTING = 600  # seconds; processes that torchrun starts arrive within some of each other


@dataclass(frozen=True)
class Processes:
    """Process ``rank`` of ``count``. Process r has the rows r, r + count, ... of every batch and of the state."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    @contextlib.contextmanager
    def joined(cls) -> Iterator["Processes"]:
        """Within it, the processes that torchrun started can talk to each other; without torchrun it is one alone.

        A process that is not connected to the others after ten minutes is ended.
        """
        if not launched():
            yield cls()
            return
        # Started again, gloo very rarely waits for a connection for ever, whatever its timeout; torchrun tries anew.
        faulthandler.dump_traceback_later(CONNECTING, exit=True)
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        faulthandler.cancel_dump_traceback_later()
        together = cls(distributed.get_rank(), distributed.get_world_size())
        try:
            yield together
            together.barrier()  # nobody leaves while another still talks
        finally:
            distributed.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def barrier(self) -> None:
        """Go on when all have come here."""
        if self.world_size > 1:
            distributed.barrier()

    def share(self, model: nn.Module, loss: Loss) -> Loss:
        """``loss`` of a model whose gradients become, in backward, the means of those of all processes."""
        if self.world_size == 1:
            return loss
        return nn.parallel.DistributedDataParallel(_Module(model, loss))

    def all_reduce(self, loss: float, *wishes: bool) -> tuple[float, ...]:
        """The mean loss of all, and for each wish whether any has it."""
        if self.world_size == 1:
            return (loss, *wishes)
        told = torch.tensor([loss, *map(float, wishes)], dtype=torch.float64)
        distributed.all_reduce(told)
        mean, *found = told.tolist()
        return (mean / self.world_size, *(wish > 0 for wish in found))

    def broadcast(self, value: Callable[[], float]) -> float:
        """What the first process computes."""
        told = torch.tensor(value() if self.is_main else 0.0, dtype=torch.float64)
        if self.world_size > 1:
            distributed.broadcast(told, 0)
        return told.item()

    def rows(self, state: Tensor) -> Tensor:
        """This process' rows of the state of all (L, B, H): (L, B / count, H)."""
        return state[:, self.rank :: self.world_size].contiguous()

    def all_gather_rows(self, state: Tensor) -> Tensor:
        """The state of all, from each one's rows (L, B / count, H): (L, B, H)."""
        if self.world_size == 1:
            return state
        parts = self.all_gather(state.contiguous())
        return torch.stack(parts, 2).flatten(1, 2)  # row b of part r is row b * count + r of all

    def all_gather(self, value: Tensor) -> list[Tensor]:
        """The tensors, of one shape, of all processes."""
        if self.world_size == 1:
            return [value]
        parts = [torch.empty_like(value) for _ in range(self.world_size)]
        distributed.all_gather(parts, value)
        return parts

    def own_seed(self, seed: int, step: int) -> int:
        """A seed that no other process and no other step has."""
        words = np.random.SeedSequence((seed, step, self.rank)).generate_state(2)
        return int(words[0]) << 31 | int(words[1]) >> 1


class _Module(nn.Module):
    """A loss as the forward of a module, which is what DistributedDataParallel wraps."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, x: Tensor, y: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._loss(x, y, state)


def launched() -> bool:
    """Whether torchrun started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def on_this_machine() -> tuple[int, int]:
    """This process' number among those of its machine, and how many they are."""
    return int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def job() -> str:
    """What names the torchrun job that this process belongs to, also after it was started again; empty for none."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "") if launched() else ""
    return "" if name == "none" else name  # what torchrun says where nobody gave --rdzv-id
