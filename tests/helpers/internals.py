"""What tests of the maths look at inside a Trainer: all such access is here, and nowhere else."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from metta.agent.distributions import Categorical, Gaussian
from metta.rl.learning.minibatches import Minibatches
from metta.rl.one_run import Trainer

ARRAYS = (
    *("observations", "actions", "values", "log_probs", "advantages", "returns", "rewards"),
    *("terminated", "truncated", "starts", "bootstrap_values", "last_values"),
)


def rollout_of(trainer: Trainer) -> SimpleNamespace:
    """Copies of the last rollout's arrays as tensors `[T, B, ...]`, and `state`: a tuple of `[B, size]`."""
    rollouts = trainer.replica.rollouts

    def together(name: str) -> torch.Tensor:
        parts = [torch.as_tensor(getattr(rollout, name)) for rollout in rollouts]
        return torch.cat(parts, 0 if name == "last_values" else 1)

    state = tuple(torch.cat(parts) for parts in zip(*(rollout.state for rollout in rollouts), strict=True))
    return SimpleNamespace(**{name: together(name) for name in ARRAYS}, state=state)


def record_passes(monkeypatch: pytest.MonkeyPatch, steps: int) -> list[list[torch.Tensor]]:
    """The minibatches of each pass are appended to the list from now on, as numbers `step * B + row` of the rollout.

    steps: of a row that are dealt apart; 1 where whole rows are.
    """
    passes: list[list[torch.Tensor]] = []
    deal = Minibatches.deal

    def recorded(self, count=1):
        dealt = deal(self, count)
        widths = [batch.values.shape[1] // steps for batch in self.batches.values()]
        firsts = np.cumsum([0, *widths]).tolist()

        def numbers(shard, index):
            return index // widths[shard] * firsts[-1] + firsts[shard] + index % widths[shard]

        for one in dealt:
            passes.append([torch.cat([numbers(s, part.index) for s, part in each.parts.items()]) for each in one])
        return dealt

    monkeypatch.setattr(Minibatches, "deal", recorded)
    return passes


def use_portable_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample actions with numpy's noise from now on: torch's exponential noise is another with MKL than without."""

    def gumbel(self, *shape, device="cpu", generator=None):
        return torch.from_numpy(np.random.gumbel(size=(*shape, self.num_params))).float()

    def normal(self, *shape, device="cpu", generator=None):
        return torch.from_numpy(np.random.standard_normal((*shape, self.action_size))).float()

    monkeypatch.setattr(Categorical, "noise", gumbel)
    monkeypatch.setattr(Gaussian, "noise", normal)
