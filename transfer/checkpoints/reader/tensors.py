"""Descriptions of tensors and arrays that a pickle left, made into tensors: views of the mapped
file where that can be."""

import math
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from detco.common.errors import InputError
from detco.common.values import shown

from . import stubs


class Tensors:
    """Replaces descriptions of tensors and arrays by tensors, all the way down; each container,
    array and storage once."""

    def __init__(self, mapped: mmap.mmap | memoryview):
        self.bytes = torch.frombuffer(mapped, dtype=torch.uint8)
        self.copied = 0
        self.seen: dict[int, Any] = {}
        self.made: dict[Any, Any] = {}  # description -> what was made of it

    def of(self, value: Any) -> Any:
        waiting = [(holder := [value], 0)]
        # grows while it is walked: no recursion, so no depth is too deep
        for (
            container,
            key,
        ) in waiting:
            item = container[key]
            if isinstance(item, stubs.Lazy):
                container[key] = self.tensor(item)
            elif isinstance(item, stubs.Array):
                container[key] = self.once(item, self.array)
            elif isinstance(item, dict | list) and id(item) not in self.seen:
                self.seen[id(item)] = item
                waiting += [
                    (item, k) for k in (list(item) if isinstance(item, dict) else range(len(item)))
                ]
        return holder[0]

    def once(self, description: Any, make: Callable) -> Any:
        if description not in self.made:
            self.made[description] = make(description)
        return self.made[description]

    def copy(self, count: int) -> None:
        """Account for so many bytes copied: all of a file once, but not a piece of it
        a thousand times."""
        self.copied += count
        if self.copied > len(self.bytes):
            raise InputError("damaged: its tensors take more room than the file has")

    def array(self, array: stubs.Array) -> torch.Tensor | None:
        """None for an array of something else than numbers."""
        try:
            numbers = torch.from_numpy(array.read())
        except (ValueError, TypeError):
            return None
        self.copy(numbers.nbytes)
        return numbers

    def storage(self, storage: stubs.Storage) -> torch.Tensor:
        """Its bytes, where they can be taken for numbers of any size."""
        length = storage.count * stubs.SIZES.get(storage.dtype, 1)
        if storage.start is None:
            raise InputError(
                f"truncated or damaged: storage {shown(storage.key)} is not in the file"
            )
        numbers = (self.bytes if storage.data is None else storage.data)[
            storage.start : storage.start + length
        ]
        if len(numbers) != length:
            raise InputError(f"truncated: it ends before storage {shown(storage.key)} does")
        if storage.data is None and storage.start % stubs.SIZES.get(storage.dtype, 8) == 0:
            return numbers
        self.copy(length)
        return (
            numbers.clone()
            if storage.data is None
            else torch.from_numpy(np.frombuffer(numbers, np.uint8).copy())
        )

    def tensor(self, lazy: stubs.Lazy) -> torch.Tensor:
        numbers, size = self.once(lazy.storage, self.storage), stubs.SIZES.get(lazy.dtype, 1)
        count = len(numbers) // size
        last = lazy.offset + sum((n - 1) * step for n, step in zip(lazy.shape, lazy.stride)) + 1
        if math.prod(lazy.shape) and last > count:
            raise InputError(
                f"damaged: a tensor of shape {lazy.shape} reaches outside its {count} numbers"
            )
        # a view, so an expanded tensor takes no memory
        numbers = numbers[: count * size].view(getattr(torch, lazy.dtype))
        return numbers.as_strided(lazy.shape, lazy.stride, numbers.storage_offset() + lazy.offset)
