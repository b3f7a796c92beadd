"""The device that a model is trained on, automatic mixed precision, and loss scaling."""

import contextlib

import torch
from torch import Tensor

from headgate.errors import InputError

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Device:
    """A device to train on, with its precision; on a CPU everything is float32 and the methods have nothing to do.

    With precision "float16" or "bfloat16", torch.autocast picks the operations that run in it; weights, optimizer and
    state stay float32. With "float16" the loss is scaled before backward, because small gradients would become zero
    (Micikevicius et al., arXiv:1710.03740): the factor grows until a gradient overflows, and is saved in checkpoints.
    """

    def __init__(self, device: torch.device, precision: str = "float32") -> None:
        self.place = device
        self._half = HALF.get(precision)
        self._scaler = torch.amp.GradScaler(device.type) if precision == "float16" else None

    @classmethod
    def of(cls, name: str, precision: str, *, number: int = 0) -> "Device":
        """Return the device ``cpu``, ``mps``, or ``cuda``: GPU ``number`` of this machine.

        Raises InputError if it is not available.
        """
        if name == "cuda":
            if not torch.cuda.is_available():
                raise InputError(
                    "device cuda: this torch finds no CUDA GPU: install a build of torch for it, or omit --device"
                )
            if number >= torch.cuda.device_count():
                raise InputError(
                    f"process {number} of this machine needs a GPU of its own, there are {torch.cuda.device_count()}: "
                    "start at most one process per GPU"
                )
            torch.cuda.set_device(number)
            return cls(torch.device("cuda", number), precision)
        if name == "mps" and not torch.backends.mps.is_available():
            raise InputError("device mps: this torch finds no Apple GPU: omit --device")
        return cls(torch.device(name), precision)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Context manager: run the forward pass in the chosen precision."""
        return contextlib.nullcontext() if self._half is None else torch.autocast(self.place.type, self._half)

    def backward(self, loss: Tensor) -> None:
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the loss scale, after ``backward``; they may be infinite."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer, *, finite: bool) -> None:
        """Make an optimizer step if loss and gradients are ``finite``, which all processes agree on."""
        if self._scaler is None:
            if finite:
                optimizer.step()
            return
        if finite:
            self._scaler.step(optimizer)
        self._scaler.update()

    @property
    def scaling(self) -> dict[str, float]:
        """The state of the loss scaling; empty if the loss is not scaled."""
        return {} if self._scaler is None else self._scaler.state_dict()

    @scaling.setter
    def scaling(self, state: dict[str, float]) -> None:
        if self._scaler is not None and state:
            self._scaler.load_state_dict(state)

    def random_state(self) -> Tensor:
        """Return the state of the random generator that dropout draws from."""
        if self.place.type == "cuda":
            return torch.cuda.get_rng_state(self.place)
        return torch.mps.get_rng_state() if self.place.type == "mps" else torch.get_rng_state()

    def set_random_state(self, state: Tensor) -> None:
        if self.place.type == "cuda":
            torch.cuda.set_rng_state(state, self.place)
        elif self.place.type == "mps":
            torch.mps.set_rng_state(state)
        else:
            torch.set_rng_state(state)
