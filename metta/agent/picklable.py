"""What torch leaves out of a file or refuses to write: hooks of parameters (`register_hook`), parametrised modules."""

from typing import Any, SupportsIndex

from torch import nn
from torch.nn.utils import parametrize


class Picklable(nn.Module):
    """A module that is pickled and copied with the hooks of its parameters."""

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        hooks = {name: (p._backward_hooks, p._post_accumulate_grad_hooks) for name, p in self.named_parameters()}
        hooks = {name: both for name, both in hooks.items() if any(both)}
        return {**state, "tensor_hooks": hooks} if hooks else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        hooks = state.pop("tensor_hooks", {})
        super().__setstate__(state)
        for name, (backward, post_accumulate) in hooks.items():
            parameter: Any = self.get_parameter(name)
            parameter._backward_hooks, parameter._post_accumulate_grad_hooks = backward, post_accumulate


def make_picklable(agent: nn.Module) -> None:
    """Let its parametrised modules, each of a class that torch has made for it, be pickled as what they are made of."""
    for module in filter(parametrize.is_parametrized, agent.modules()):
        type(module).__reduce_ex__ = _reduced  # type: ignore[method-assign]


def _reduced(module: Any, protocol: SupportsIndex) -> tuple[Any, ...]:
    return parametrised, (type(module).__bases__[0], [*module.parametrizations]), vars(module)


def parametrised(base: type[nn.Module], tensors: list[str]) -> nn.Module:
    """Make what torch.nn.utils.parametrize makes of a module of this class, still without any state."""
    module = base.__new__(base)
    parametrize._inject_new_class(module)
    for name in tensors:
        parametrize._inject_property(module, name)
    type(module).__reduce_ex__ = _reduced  # type: ignore[method-assign]
    return module
