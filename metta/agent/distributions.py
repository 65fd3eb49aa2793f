"""What the policy head's numbers mean: a categorical over n actions, several at once, or a Gaussian over a box.

Both are stateless and work on plain tensors, so that a whole rollout is scored in one call. `params` is what the
agent returns, `[..., P]`; `noise` is drawn beforehand for many steps at once and makes sampling a pure function.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from metta.envs.env_spec import EnvSpec

# The logit of an action that cannot be taken. Finite, for infinities become NaN; its probability is exactly 0, and the
# entropy and all gradients are those of the distribution over the other actions.
FORBIDDEN = -1e8


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


class MultiCategorical(Categorical):
    """Independent choices side by side. params: the logits of each after the other `[..., P]`; actions: `[..., n]`."""

    def __init__(self, sizes: tuple[int, ...]):
        super().__init__(sum(sizes))
        self.sizes = sizes

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        return super().sample(self._apart(params), self._apart(noise))

    def mode(self, params: Tensor) -> Tensor:
        return super().mode(self._apart(params))

    def score(self, params: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log probability of all choices together and the sum of their entropies, both `[...]`."""
        log_probs, entropies = super().score(self._apart(params), actions)
        return log_probs.sum(-1), entropies.sum(-1)

    def _apart(self, params: Tensor) -> Tensor:
        """`[..., n, longest]`, filled up with what is never chosen."""
        longest = max(self.sizes)
        if min(self.sizes) == longest:
            return params.unflatten(-1, (-1, longest))
        parts = params.split(self.sizes, -1)
        return torch.stack([F.pad(part, (0, longest - part.shape[-1]), value=FORBIDDEN) for part in parts], -2)


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


def make_distribution(env: EnvSpec) -> Categorical | Gaussian:
    """The distribution over what the environment takes for an action."""
    if env.num_actions is not None:
        return Categorical(env.num_actions)
    return MultiCategorical(env.action_sizes) if env.action_sizes else Gaussian(math.prod(env.action_shape))
