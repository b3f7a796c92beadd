"""Tensors for the native library: their shapes checked, their values contiguous in CPU memory."""

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64)


def dense(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return the tensor C-contiguous and aligned, without a copy if it is already. A kernel is passed nothing else.

    Raises RuntimeError for another shape, dtype or device, or for a tensor without data.
    """
    if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_cpu:
        raise RuntimeError(
            f"{name} must be {dtype} {shape} on cpu, got {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        )
    return resolved(name, tensor.contiguous())


def resolved(name: str, tensor: Tensor) -> Tensor:
    """Return the tensor aligned and without a lazy negation, with the same strides."""
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    place = tensor.data_ptr()
    if place % tensor.itemsize:
        return tensor.clone()
    if not place and tensor.numel():
        raise RuntimeError(f"{name} has no data in memory: it is a {type(tensor).__name__}")
    return tensor


def check_floats(name: str, dtype: torch.dtype) -> None:
    if dtype not in FLOATS:
        raise RuntimeError(f"{name} must be float32 or float64, got {dtype}")


def check_range(name: str, values: Tensor, largest: int) -> None:
    """Raise RuntimeError unless all values lie in 0..largest."""
    if not values.numel():
        return
    low, high = (int(v) for v in torch.aminmax(values))
    if low < 0 or high > largest:
        raise RuntimeError(f"{name} must be from 0 to {largest}, got {low} to {high}")
