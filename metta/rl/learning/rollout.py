"""What training stores of its experience: T steps of B rows, where a row is one agent of one environment.

One more array is one line in `Batch` or `Rollout`, and one in `Collector` that writes it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metta.agent.policy_agent import PolicyAgent, State

# What `field(metadata=...)` says of an array: its shape and dtype, for an agent, T steps and B rows.
NUMBER: dict[str, Any] = {"layout": lambda agent, T, B: ((T, B), "float32")}
FLAG: dict[str, Any] = {"layout": lambda agent, T, B: ((T, B), "bool")}
OBSERVATION: dict[str, Any] = {
    "layout": lambda agent, T, B: ((T, B, *agent.env.observation_shape), agent.env.observation_dtype)
}
ACTION: dict[str, Any] = {"layout": lambda agent, T, B: ((T, B, *agent.env.action_shape), agent.env.action_dtype)}
NUMBER_OF_ROW: dict[str, Any] = {"layout": lambda agent, T, B: ((B,), "float32")}


@dataclass(kw_only=True)
class Batch:
    """What is learned from, on the agent's device; every array is `[T, B, ...]`.

    starts: an episode begins with this observation; state: the recurrent state before the first step, `[B, ...]`.
    """

    observations: Tensor = field(metadata=OBSERVATION)
    starts: Tensor = field(metadata=FLAG)
    actions: Tensor = field(metadata=ACTION)
    log_probs: Tensor = field(metadata=NUMBER)
    values: Tensor = field(metadata=NUMBER)
    advantages: Tensor = field(metadata=NUMBER)
    returns: Tensor = field(metadata=NUMBER)
    state: State
    agents_vary: bool = False

    @property
    def present(self) -> Tensor | None:
        """Where there was an agent, `[T, B]`; None: everywhere. Nothing is learned from the other steps."""
        return self.observations[..., -1] != 0 if self.agents_vary else None

    def present_steps(self, params: Tensor, values: Tensor) -> tuple["Batch", Tensor, Tensor]:
        """Those steps as `[1, N, ...]`, and what the agent says of them."""
        if self.present is None:
            return self, params, values
        where = self.present.flatten().nonzero().squeeze(1)

        def chosen(array: Tensor) -> Tensor:
            return array.flatten(0, 1).index_select(0, where).unsqueeze(0)

        return self._each(chosen, ()), chosen(params), chosen(values)

    def rows(self, index: Tensor) -> "Batch":
        """The minibatch of these rows."""
        state = tuple(s.index_select(0, index) for s in self.state)
        return self._each(lambda array: array.index_select(1, index), state)

    def independent_steps(self) -> "Batch":
        """The same steps as `[1, T * B, ...]`: for agents without memory any step may join any minibatch."""
        return self._each(lambda array: array.flatten(0, 1).unsqueeze(0), ())

    def _each(self, function: Callable[[Tensor], Tensor], state: State) -> "Batch":
        return Batch(
            **{name: function(getattr(self, name)) for name in ON_DEVICE}, state=state, agents_vary=self.agents_vary
        )


ON_DEVICE = [item.name for item in fields(Batch) if item.metadata]


@dataclass(kw_only=True)
class Rollout(Batch):
    """One horizon of experience of all rows, whose memory the next reuses; the arrays named here are the CPU's.

    bootstrap_values: the value of the final observation where the episode was truncated; last_values: of the
    observations after the last step.
    """

    rewards: np.ndarray = field(metadata=NUMBER)
    terminated: np.ndarray = field(metadata=FLAG)
    truncated: np.ndarray = field(metadata=FLAG)
    bootstrap_values: np.ndarray = field(metadata=NUMBER)
    last_values: np.ndarray = field(metadata=NUMBER_OF_ROW)

    @classmethod
    def zeros(cls, agent: PolicyAgent, horizon: int, rows: int) -> "Rollout":
        """Make one of zeros, for `horizon` steps of so many rows; the tensors are on the agent's device."""
        device = next(agent.parameters()).device
        arrays: dict[str, Any] = {}
        for name, (shape, dtype) in cls._layout(agent, horizon, rows).items():
            array = torch.zeros(shape, dtype=getattr(torch, dtype))
            arrays[name] = array.to(device) if name in ON_DEVICE else array.numpy()
        state = tuple(map(torch.zeros_like, agent.initial_state(rows)))
        return cls(state=state, agents_vary=agent.env.agents_vary, **arrays)

    @classmethod
    def num_bytes(cls, agent: PolicyAgent, horizon: int, rows: int) -> int:
        arrays = cls._layout(agent, horizon, rows).values()
        state = sum(part.nbytes for part in agent.initial_state(rows))
        return state + sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in arrays)

    @classmethod
    def _layout(cls, agent: PolicyAgent, horizon: int, rows: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """The shape and dtype of each array."""
        return {item.name: item.metadata["layout"](agent, horizon, rows) for item in fields(cls) if item.metadata}
