"""A copy of an agent and its trainer's state as they are at one step, quick enough to take between two epochs."""

import copy
from collections import OrderedDict
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import nn

from metta.files.portable_pickle import bare

IMMUTABLE = frozenset({type(None), bool, int, float, complex, str, bytes})
Kept = dict[tuple[int, bool], list[torch.UntypedStorage]]  # by bytes, and whether pinned for copies from a GPU


class Snapshot:
    """Deep copies whose tensors lie in CPU memory that is kept from one copy to the next.

    Into memory used before, a core copies 7 to 11 GB/s; into fresh memory, which the system must find and clear first,
    1 to 3 GB/s. Small states count in Python calls: of an agent of 25 modules with Adam's state (11 MB), copy.deepcopy
    took 9 ms on one core, this 2 ms.
    """

    def __init__(self) -> None:
        self._kept: Kept = {}
        self._free: Kept = {}  # what this copy has not taken again yet
        self._storages: dict[tuple[int, int], torch.UntypedStorage] = {}  # of this copy: the source's place -> its copy
        self._memo: dict[int, Any] = {}  # of this copy, as deepcopy has it: id(original) -> its copy

    def take(self, state: Any) -> Any:
        """A deep copy of `state`, agents in it without their wrappers; overwritten by the next `take`.

        What shares memory shares it in the copy. All of a tensor's memory is copied, as torch.save would save all.
        """
        self._free, self._kept = self._kept, {}
        try:
            return self._copy(state)
        finally:
            self._free, self._storages, self._memo = {}, {}, {}
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()

    def _copy(self, item: Any) -> Any:
        kind = type(item)
        if kind in IMMUTABLE:
            return item
        if id(item) in self._memo:
            return self._memo[id(item)]
        copied: Any
        if kind is dict or kind is OrderedDict:
            copied = self._memo[id(item)] = kind()
            for key, value in item.items():
                copied[self._copy(key)] = self._copy(value)
        elif kind is list:
            copied = self._memo[id(item)] = []
            copied.extend([self._copy(value) for value in item])
        elif kind is tuple:
            copied = self._memo[id(item)] = tuple([self._copy(value) for value in item])
        elif kind is set:
            copied = self._memo[id(item)] = {self._copy(value) for value in item}
        elif isinstance(item, torch.Tensor) and _is_plain(item):
            copied = self._memo[id(item)] = self._copy_tensor(item)
        elif isinstance(item, nn.Module):
            copied = self._copy_module(bare(item))
        else:
            copied = copy.deepcopy(item, self._memo)
        return copied

    def _copy_module(self, module: nn.Module) -> nn.Module:
        kind: Any = type(module)
        if id(module) in self._memo:
            return self._memo[id(module)]
        if _has_plain_state(kind):
            copied = self._memo[id(module)] = kind.__new__(kind)
            for name, value in module.__getstate__().items():
                vars(copied)[name] = self._copy(value)
            return copied
        for tensor in chain(module.parameters(), module.buffers()):
            self._copy(tensor)  # into kept memory; deepcopy finds the copies in its memo
        return copy.deepcopy(module, self._memo)

    def _copy_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        source = tensor.untyped_storage()
        place = source.data_ptr(), source.nbytes()
        if place not in self._storages:
            self._storages[place] = self._kept_storage(source).copy_(source, non_blocking=True)
        copied = torch.empty(0, dtype=tensor.dtype)
        copied.set_(self._storages[place], tensor.storage_offset(), tensor.size(), tensor.stride())
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(copied, tensor.requires_grad)
        return copied.requires_grad_(tensor.requires_grad)

    def _kept_storage(self, source: torch.UntypedStorage) -> torch.UntypedStorage:
        size, pinned = source.nbytes(), source.device.type == "cuda"
        free = self._free.get((size, pinned))
        kept = free.pop() if free else torch.empty(size, dtype=torch.uint8, pin_memory=pinned).untyped_storage()
        self._kept.setdefault((size, pinned), []).append(kept)
        return kept


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether type, dtype, size, stride and storage are all there is to it; deepcopy knows the other kinds."""
    return (
        type(tensor) in (torch.Tensor, nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.device.type in ("cpu", "cuda")
        and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg() or vars(tensor))
        and tensor.untyped_storage().nbytes() > 0
    )


@cache
def _has_plain_state(kind: Any) -> bool:
    """Whether modules of this class are their attributes and nothing else: it does not override how they are copied."""
    ways = "__getstate__ __setstate__ __reduce__ __reduce_ex__ __deepcopy__ __getnewargs__ __getnewargs_ex__"
    return all(getattr(kind, way, None) is getattr(nn.Module, way, None) for way in ways.split())
