"""A backend's ``sequence`` with the flat arguments that tests use."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from headgate.equations import Options, Weights


def unbundled(sequence: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """Return a backend's ``sequence`` as a function of (x, h0, weight_ih, weight_hh, bias_ih, bias_hh, **options)."""

    def called(
        x: Tensor,
        h0: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor | None = None,
        bias_hh: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, ...]:
        return sequence(x, h0, Weights(weight_ih, weight_hh, bias_ih, bias_hh), Options(**options))

    return called
