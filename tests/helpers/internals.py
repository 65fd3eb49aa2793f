"""What tests of the maths look at inside a Trainer: all such access is here, and nowhere else."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from metta.agent.distributions import Categorical, Gaussian
from metta.rl.trainer import Trainer

ARRAYS = (
    *("observations", "actions", "values", "log_probs", "advantages", "returns", "rewards"),
    *("terminated", "truncated", "starts", "bootstrap_values", "last_values"),
)


def rollout_of(trainer: Trainer) -> SimpleNamespace:
    """Copies of the last rollout's arrays as tensors `[T, B, ...]`, and `state`: a tuple of `[B, size]`."""
    rollout = trainer.replica.rollout
    copies = {name: torch.as_tensor(getattr(rollout, name)).clone() for name in ARRAYS}
    return SimpleNamespace(**copies, state=tuple(tensor.clone() for tensor in rollout.state))


def record_orders(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The permutations that deal the minibatches, one for each pass, are appended to the list from now on."""
    orders: list[torch.Tensor] = []
    randperm = torch.randperm

    def recorded(*arguments, **options):
        orders.append(randperm(*arguments, **options))
        return orders[-1].clone()

    monkeypatch.setattr(torch, "randperm", recorded)
    return orders


def use_portable_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample actions with numpy's noise from now on: torch's exponential noise is another with MKL than without."""

    def gumbel(self, *shape, device="cpu", generator=None):
        return torch.from_numpy(np.random.gumbel(size=(*shape, self.num_params))).float()

    def normal(self, *shape, device="cpu", generator=None):
        return torch.from_numpy(np.random.standard_normal((*shape, self.action_size))).float()

    monkeypatch.setattr(Categorical, "noise", gumbel)
    monkeypatch.setattr(Gaussian, "noise", normal)
