"""Agents whose forward changes them as they train: as one's own agent usually does, and in ways that none can share."""

import torch
from torch import nn
from torch.nn import functional

from metta.agent.policy_agent import PolicyAgent


class BatchNormAgent(PolicyAgent):
    def __init__(self, env, hidden_size=None, lstm=False):
        super().__init__(env, hidden_size, lstm)
        self.norm = nn.BatchNorm1d(env.observation_shape[0])

    def forward(self, observations, state=(), starts=None):
        normed = self.norm(observations.flatten(0, -2)).view_as(observations)
        return super().forward(normed, state, starts)


class Buffered(PolicyAgent):
    """Changes its buffers in `count`, whether it trains or not."""

    mean: torch.Tensor
    calls: torch.Tensor

    def __init__(self, env, hidden_size=None, lstm=False):
        super().__init__(env, hidden_size, lstm)
        self.register_buffer("mean", torch.zeros(env.observation_shape[0]))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)

    def count(self, rows):
        raise NotImplementedError

    def forward(self, observations, state=(), starts=None):
        self.count(observations.detach().flatten(0, -2))
        params, values, state = super().forward(observations - self.mean, state, starts)
        return params + 0.01 * torch.sin(self.calls.sum()), values, state


class RunningMean(Buffered):
    """In place, and only in training."""

    def count(self, rows):
        if self.training:
            self.mean.mul_(0.99).add_(rows.mean(0), alpha=0.01)


class AssignedAverage(Buffered):
    """An exponential average of its weights and one of its inputs, both put in place of the old."""

    slow: torch.Tensor

    def __init__(self, env, hidden_size=None, lstm=False):
        super().__init__(env, hidden_size, lstm)
        self.register_buffer("slow", torch.zeros_like(self.policy.weight, dtype=torch.float64))

    def count(self, rows):
        self.slow = 0.9 * self.slow + 0.1 * self.policy.weight.detach()
        self.mean = 0.99 * self.mean + 0.01 * rows.mean(0) + 0.01 * self.slow.float().mean()

    def forward(self, observations, state=(), starts=None):
        params, values, state = super().forward(observations, state, starts)
        return params * (1 + self.slow.float().mean()), values, state  # which autograd keeps


class StepCounter(Buffered):
    def count(self, rows):
        self.calls += 1


class LargestYet(Buffered):
    """Begins at minus infinity."""

    largest: torch.Tensor

    def __init__(self, env, hidden_size=None, lstm=False):
        super().__init__(env, hidden_size, lstm)
        self.register_buffer("largest", torch.full((), -torch.inf))

    def count(self, rows):
        torch.maximum(self.largest, rows.max(), out=self.largest)
        self.mean.fill_(self.largest)


class Dropout(PolicyAgent):
    def forward(self, observations, state=(), starts=None):
        params, values, state = super().forward(observations, state, starts)
        return functional.dropout(params, 0.2, self.training), values, state


class HalfPrecision(PolicyAgent):
    """What it says is bfloat16, which numpy has not."""

    def forward(self, observations, state=(), starts=None):
        params, values, state = super().forward(observations, state, starts)
        return params.bfloat16(), values.bfloat16(), state


class DrawnState(PolicyAgent):
    """Begins an episode with a state that it draws."""

    def initial_state(self, batch_size):
        return (torch.randn(batch_size, 3),)

    def forward(self, observations, state=(), starts=None):
        (drawn,) = state or self.initial_state(observations.shape[-2])
        params, values, _ = super().forward(observations)
        return params + drawn.mean(-1, keepdim=True), values, (0.9 * drawn,)


class OldSpectralNorm(PolicyAgent):
    """Its hook keeps a weight beside the parameters, derived anew in each call."""

    def __init__(self, env, hidden_size=None, lstm=False):
        super().__init__(env, hidden_size, lstm)
        nn.utils.spectral_norm(self.policy)


class KeepsFeatures(PolicyAgent):
    """Keeps what it computed last, and a table that it makes when it first needs it."""

    table: torch.Tensor | None = None

    def forward(self, observations, state=(), starts=None):
        if self.table is None:
            self.table = torch.arange(4.0)
        self.last_seen = observations + self.table
        return super().forward(observations, state, starts)


class UsageCounts(Buffered):
    """Whole numbers that depend on the data."""

    def count(self, rows):
        self.calls += int((rows[:, 0] > 0).sum())


class Growing(Buffered):
    def count(self, rows):
        self.calls = torch.cat((self.calls.view(-1), self.calls.view(-1)[:1]))


class LateCounter(Buffered):
    """Not in its first calls."""

    def count(self, rows):
        if rows.shape[0] > 10:
            self.calls += 1


class PythonCounter(Buffered):
    steps = 0

    def count(self, rows):
        self.steps += 1


class PlainTensor(Buffered):
    def __init__(self, env, hidden_size=None, lstm=False):
        super().__init__(env, hidden_size, lstm)
        self.history = {"means": [torch.zeros(env.observation_shape[0])]}

    def count(self, rows):
        self.history["means"][0] += rows.mean(0)


class HookedTensors(PolicyAgent):
    """What torch's own pickling of a parameter leaves out, one over the agent itself."""

    def __init__(self, env, hidden_size=None, lstm=False):
        super().__init__(env, hidden_size, lstm)
        self.register_buffer("share", torch.tensor(0.5))
        self.policy.weight.register_hook(lambda gradient: gradient * self.share)
        self.value.weight.register_post_accumulate_grad_hook(quarter)


def quarter(parameter):
    parameter.grad *= 0.25


class Parametrised(PolicyAgent):
    """With weights that are computed from others, which torch refuses to pickle; one of them keeps a state."""

    def __init__(self, env, hidden_size=None, lstm=False):
        super().__init__(env, hidden_size, lstm)
        nn.utils.parametrizations.weight_norm(self.value)
        nn.utils.parametrizations.spectral_norm(self.policy)
