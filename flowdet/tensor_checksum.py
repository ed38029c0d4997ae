"""A checksum of named tensors: the safetensors format, unlike torch's, has none."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor


def tensor_checksum(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Returns the CRC-32 of the names, types, shapes and values of tensors, as 8 hex digits.

    Args:
        tensors: tensors on the CPU by name, in any order.
        text: what else the checksum is for, such as the notes in the same file.
    """
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        x = tensors[name]
        value = zlib.crc32(f"{name} {x.dtype} {tuple(x.shape)}".encode(), value)
        value = zlib.crc32(x.contiguous().flatten().view(torch.uint8).numpy(), value)
    return f"{value:08x}"
