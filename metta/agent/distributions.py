"""What the policy head's numbers mean: a categorical over n actions, or a diagonal Gaussian over a box.

Both are stateless and work on plain tensors, so that a whole rollout is scored in one call. `params` is what the
agent returns, `[..., P]`; `noise` is drawn beforehand for many steps at once and makes sampling a pure function.
"""

import math

import torch
from torch import Tensor


class Categorical:
    """params: unnormalised log-probabilities `[..., n]`; actions: int64 `[...]`."""

    def __init__(self, num_actions: int):
        self.num_params = num_actions

    def noise(
        self, *shape: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None
    ) -> Tensor:
        """Gumbel noise `[*shape, n]`, drawn from `generator`, or torch's own."""
        return torch.empty(*shape, self.num_params, device=device).exponential_(generator=generator).log_().neg_()

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """The Gumbel-max trick: argmax(logits + Gumbel noise) is a draw from softmax(logits)."""
        return (params + noise).argmax(-1)

    def mode(self, params: Tensor) -> Tensor:
        return params.argmax(-1)

    def score(self, params: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log probability of the actions and entropy, both `[...]`."""
        logp = params.log_softmax(-1)
        return logp.gather(-1, actions.unsqueeze(-1)).squeeze(-1), -(logp.exp() * logp).sum(-1)


class Gaussian:
    """params: mean and log standard deviation side by side `[..., 2n]`; actions: float `[..., n]`, unbounded."""

    def __init__(self, action_size: int):
        self.action_size = action_size
        self.num_params = 2 * action_size

    def noise(
        self, *shape: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None
    ) -> Tensor:
        """Standard normal noise `[*shape, n]`, drawn from `generator`, or torch's own."""
        return torch.empty(*shape, self.action_size, device=device).normal_(generator=generator)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = params.chunk(2, -1)
        return mean + log_std.exp() * noise

    def mode(self, params: Tensor) -> Tensor:
        return params[..., : self.action_size]

    def score(self, params: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log probability of the actions and entropy, both `[...]`."""
        mean, log_std = params.chunk(2, -1)
        z = (actions - mean) * torch.exp(-log_std)
        log_prob = (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
        return log_prob, (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
