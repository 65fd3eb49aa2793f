"""Hooks of tensors (`register_hook`) in files and copies, where torch leaves them out."""

from typing import Any

from torch import nn


class KeepsTensorHooks(nn.Module):
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
