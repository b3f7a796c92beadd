"""A text cut into batches. (seed, epoch, step) alone determine a batch, so training can resume at any step.

Letters: T time steps, B batch, N tokens. Batches are time-major: x and y are (T, B), y one token ahead of x.
"""

from dataclasses import dataclass

import numpy as np

from headgate.errors import InputError
from headgate.settings.run import TrainingSettings
from headgate.text.permutation import permuted
from headgate.text.stored_ids import Ids


@dataclass(frozen=True)
class Batch:
    """Inputs and targets (T, B), int64; ``carry`` is True if row b continues row b of the previous batch."""

    x: np.ndarray
    y: np.ndarray
    carry: bool


@dataclass(frozen=True)
class Batches:
    """The batches of every epoch of a text, for one of ``world_size`` processes.

    ``sequential``: the text, starting at the epoch's offset, is laid out in B rows of equal length, and successive
    batches walk along the rows, so the state may be carried from one to the next. ``random``: the text is cut into
    pieces of T tokens, each drawn once, in an order of the epoch's own; the state starts from zero for each batch.
    Tokens that do not fill a batch are left out (at the end of each row, or of the text). Process r works on rows r,
    r + world_size, ... of each batch.

    The offset of an epoch is 0 or, with ``random_offset``, one of 0 to T, as in the textbook; a random partition always
    has one of 0 to T - 1. All offsets are used once, in random order, before any is used again: the offset decides
    which tokens an epoch leaves out, and independent draws would sometimes leave out the same ones for many epochs.

    >>> batches = Batches(np.arange(9), B=2, T=2, partition="sequential", random_offset=False, seed=0)
    >>> batches.per_epoch, batches.at(0, 1).x.T.tolist(), batches.at(0, 1).y.T.tolist()
    (2, [[2, 3], [6, 7]], [[3, 4], [7, 8]])
    """

    ids: Ids
    B: int
    T: int
    partition: str
    random_offset: bool
    seed: int
    rank: int = 0
    world_size: int = 1

    @classmethod
    def of(cls, ids: Ids, settings: TrainingSettings, *, rank: int = 0, world_size: int = 1) -> "Batches":
        """Cut a text into batches as a run's settings say.

        Raises InputError if the processes cannot share a batch evenly.
        """
        s = settings
        if s.batch_size % (world_size * s.accumulate):
            raise InputError(
                f"a batch of {s.batch_size} rows cannot be shared evenly by {world_size} processes in {s.accumulate} "
                f"parts each: --batch-size must be a multiple of {world_size * s.accumulate}"
            )
        return cls(ids, s.batch_size, s.sequence_length, s.partition, s.random_offset, s.seed, rank, world_size)

    def __post_init__(self) -> None:
        if self.per_epoch < 1:
            needed = self.B * self.T + self._largest_offset + 1
            raise InputError(
                f"the training text has {len(self.ids)} tokens, but one batch of {self.B} sequences of {self.T} steps "
                f"needs {needed}: give more text, or lower --batch-size or --sequence-length"
            )
        if self.B % self.world_size:
            raise InputError(f"a batch of {self.B} cannot be shared evenly by {self.world_size} processes")

    @property
    def _largest_offset(self) -> int:
        if self.partition == "random":
            return self.T - 1
        return self.T if self.random_offset else 0

    @property
    def per_epoch(self) -> int:
        """The number of batches in an epoch, the same for every offset."""
        return (len(self.ids) - self._largest_offset - 1) // (self.B * self.T)

    @property
    def tokens(self) -> int:
        """The number of tokens predicted in a batch, over all processes."""
        return self.B * self.T

    def at(self, epoch: int, step: int) -> Batch:
        """Return the batch of a step (0 <= step < per_epoch) of an epoch."""
        if not 0 <= step < self.per_epoch:
            raise IndexError(f"step must be from 0 to {self.per_epoch - 1}, got {step}")
        offsets = self._largest_offset + 1
        offset = int(np.random.default_rng((self.seed, epoch // offsets)).permutation(offsets)[epoch % offsets])
        if self.partition == "sequential":
            length = (len(self.ids) - offset - 1) // self.B  # of a row
            starts = offset + step * self.T + length * np.arange(self.B)
        else:
            pieces = (len(self.ids) - offset - 1) // self.T
            drawn = permuted(np.arange(step * self.B, (step + 1) * self.B), pieces, (self.seed, epoch, 1))
            starts = offset + self.T * drawn
        starts = starts[self.rank :: self.world_size]
        places = np.arange(self.T)[:, None] + starts  # (T, B)
        return Batch(
            self.ids[places].astype(np.int64),
            self.ids[places + 1].astype(np.int64),
            carry=self.partition == "sequential" and step > 0,
        )
