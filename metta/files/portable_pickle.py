"""torch.save for files that load anywhere metta is: without a GPU, and without the script that defined a class."""

import io
import sys
from typing import Any

import cloudpickle
import torch

WRAPPERS = {"OptimizedModule": "_orig_mod", "DistributedDataParallel": "module", "DataParallel": "module"}


def save(content: Any, file: Any) -> None:
    """torch.save(content, file), with tensors on the CPU, an agent without its wrapper, and scripts' classes by value.

    Plain torch.load(weights_only=False) reads it. cloudpickle saves by value what is defined in __main__ or in a module
    that is not in sys.modules, or that was given to cloudpickle.register_pickle_by_value.
    """
    try:
        torch.save(bare(content), file, pickle_module=sys.modules[__name__])
    except RuntimeError as error:  # torch's own, where it is the consequence of the file's
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def dumps(content: Any) -> bytes:
    """What `save` writes, for another process of ours; `loads` reads it."""
    file = io.BytesIO()
    save(content, file)
    return file.getvalue()


def loads(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=False)


def bare(content: Any) -> Any:
    """The agent inside torch.compile's, DistributedDataParallel's or DataParallel's wrapper; else `content` itself."""
    inside = WRAPPERS.get(type(content).__name__) if type(content).__module__.startswith("torch.") else None
    return content if inside is None else bare(getattr(content, inside))


class Pickler(cloudpickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is torch.Tensor and obj.device.type not in ("cpu", "meta"):
            on_cpu = obj.detach().cpu().requires_grad_(obj.requires_grad)
            return on_cpu.__reduce_ex__(torch.serialization.DEFAULT_PROTOCOL)
        return super().reducer_override(obj)
