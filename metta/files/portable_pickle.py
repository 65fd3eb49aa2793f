"""torch.save for files that load anywhere metta is: without a GPU, and without the script that defined a class."""

import io
import pickle
from typing import Any

import cloudpickle
import torch
from torch import nn

WRAPPERS = {"OptimizedModule": "_orig_mod", "DistributedDataParallel": "module", "DataParallel": "module"}


def save(content: Any, file: Any) -> None:
    """torch.save(content, file), with tensors on the CPU, an agent without its wrapper, and scripts' classes by value.

    Plain torch.load(weights_only=False) reads it. cloudpickle saves by value what is defined in __main__ or in a module
    that is not in sys.modules, or that was given to cloudpickle.register_pickle_by_value.
    """
    torch.save(bare(content), file, pickle_module=_PickleModule)


def dumps(content: Any) -> bytes:
    """What `save` writes, for another process of ours; `loads` reads it."""
    file = io.BytesIO()
    save(content, file)
    return file.getvalue()


def loads(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=False)


def bare(content: Any) -> Any:
    """The agent inside torch.compile's, DistributedDataParallel's or DataParallel's wrapper; else `content` itself."""
    while isinstance(content, nn.Module) and type(content).__module__.startswith("torch."):
        inside = WRAPPERS.get(type(content).__name__)
        if inside is None:
            break
        content = getattr(content, inside)
    return content


class _Pickler(cloudpickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is torch.Tensor and obj.device.type not in ("cpu", "meta"):
            on_cpu = obj.detach().cpu().requires_grad_(obj.requires_grad)
            return on_cpu.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
        return super().reducer_override(obj)


class _PickleModule:
    """As much of a pickle module as torch.save uses."""

    Pickler = _Pickler
