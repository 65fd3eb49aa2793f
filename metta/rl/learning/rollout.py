"""What training stores of its experience: T steps of B rows, where a row is one agent of one environment.

One more array is one line in `Batch` or `Rollout`, and one in `Collector` that writes it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metta.agent.policy_agent import PolicyAgent, State
from metta.processes.shared_arrays import Layout, arrays_over, num_bytes

# What `field(metadata=...)` says of an array: the shape and dtype of one entry, and for which axes there are entries.
NUMBER: dict[str, Any] = {"entry": lambda agent: ((), "float32"), "axes": "TB"}
FLAG = NUMBER | {"entry": lambda agent: ((), "bool")}
OBSERVATION = NUMBER | {"entry": lambda agent: (agent.env.observation_shape, agent.env.observation_dtype)}
ACTION = NUMBER | {"entry": lambda agent: (agent.env.action_shape, agent.env.action_dtype)}


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
    last_values: np.ndarray = field(metadata=NUMBER | {"axes": "B"})

    @classmethod
    def over(cls, memory: Any, agent: PolicyAgent, horizon: int, rows: int) -> "Rollout":
        """In `memory`, a buffer of `num_bytes`; on a GPU the tensors are copies there."""
        device = next(agent.parameters()).device
        arrays: dict[str, Any] = arrays_over(memory, cls._layout(agent, horizon, rows))
        states = [name for name in arrays if name.startswith("state")]
        for name in (*ON_DEVICE, *states):
            arrays[name] = torch.from_numpy(arrays[name]).to(device)
        state = tuple(arrays.pop(name) for name in states)
        return cls(state=state, agents_vary=agent.env.agents_vary, **arrays)

    @classmethod
    def num_bytes(cls, agent: PolicyAgent, horizon: int, rows: int) -> int:
        return num_bytes(cls._layout(agent, horizon, rows))

    @classmethod
    def _layout(cls, agent: PolicyAgent, horizon: int, rows: int) -> Layout:
        lengths = {"T": horizon, "B": rows}
        layout = {}
        for item in fields(cls):
            if item.metadata:
                shape, dtype = item.metadata["entry"](agent)
                layout[item.name] = (*(lengths[axis] for axis in item.metadata["axes"]), *shape), np.dtype(dtype)
        for i, state in enumerate(agent.initial_state(rows)):
            layout[f"state{i}"] = tuple(state.shape), state.cpu().numpy().dtype
        return layout
