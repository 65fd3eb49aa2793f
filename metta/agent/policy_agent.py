"""The agent: everything needed to act, in one nn.Module that torch.save writes and torch.load brings back."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metta.agent.distributions import FORBIDDEN, Gaussian, make_distribution
from metta.agent.encoders import Normalizer, build_encoder, orthogonal
from metta.agent.picklable import Picklable
from metta.envs.env_spec import EnvSpec

State = tuple[Tensor, ...]

# Of several actions at once. HalfCheetah-v5 after 1M steps had 5,154 with it (mean of 5 seeds), and 3,381 with 0 (4);
# Hopper-v5 3,265 (5) and 3,032 (2). Pendulum-v1, with a single one, had -154 with 0 and -167 with -0.5 (3 seeds each).
FIRST_LOG_STD = -0.5


class PolicyAgent(Picklable):
    """Encoder, optional LSTM, policy head and value head; acts alone, on raw observations.

    To write your own, subclass it and replace `build_encoder` (the features) or `forward` (everything). Keyword
    arguments that `__init__` does not name are `build_encoder`'s.
    """

    encoder: Any  # an nn.Module with output_size, and head_size where its features are two halves

    def __init__(self, env: EnvSpec, hidden_size: int | None = None, lstm: bool = False, **options: Any):
        super().__init__()
        self.env = env
        self.options = {"hidden_size": hidden_size, "lstm": lstm, **options}  # what builds this agent anew from `env`
        self.encoder = self.build_encoder(env, hidden_size, **options)
        size = self.encoder.output_size
        self.lstm = orthogonal(nn.LSTM(size, size), 1.0) if lstm else None
        # A twin encoder's features are two halves, the policy's and the value's, until an LSTM mixes them.
        self.head_size = size if lstm else getattr(self.encoder, "head_size", size)
        self.distribution = make_distribution(env)
        gaussian = isinstance(self.distribution, Gaussian)
        outputs = self.distribution.num_params // (2 if gaussian else 1)
        self.policy = orthogonal(nn.Linear(self.head_size, outputs), 0.01)
        first = FIRST_LOG_STD if outputs > 1 else 0.0
        self.log_std = nn.Parameter(torch.full((outputs,), first)) if gaussian else None
        self.value = orthogonal(nn.Linear(self.head_size, 1), 1.0)

    def build_encoder(self, env: EnvSpec, hidden_size: int | None, **options: Any) -> nn.Module:
        """A module from observations `[..., *env.observation_shape]` to features `[..., output_size]`.

        It has the attribute `output_size`; `hidden_size` is the user's, None where none was given.
        """
        return build_encoder(env, hidden_size, **options)

    def initial_state(self, batch_size: int) -> State:
        """Zeroed recurrent state, each tensor `[batch_size, size]`; empty without an LSTM."""
        if self.lstm is None:
            return ()
        zeros = torch.zeros(batch_size, self.lstm.hidden_size, device=next(self.parameters()).device)
        return zeros, zeros.clone()

    def __call__(self, observations: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, State]:
        """`forward`, whoever wrote it, with no chance for the actions that the observations forbid."""
        params, values, state = super().__call__(observations, *args, **kwargs)
        if self.env.masked:
            params = params.masked_fill(~self.env.mask_in(observations), FORBIDDEN)
        return params, values, state

    def forward(
        self, observations: Tensor, state: State = (), starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor, State]:
        """Distribution parameters `[..., P]`, values `[...]` and the next state.

        observations: `[B, *shape]` for one step or `[T, B, *shape]` for T of them; starts: bool `[B]` or `[T, B]`,
        where an episode begins, so that its state is zeroed first; state: that of `initial_state(B)` or a later one.
        """
        features = self.encoder(observations)
        if self.lstm is not None:
            features, state = self._recur(features, state, starts)
        # The policy's half and the value's; split, for a slice's gradient is a whole tensor of zeros first.
        halves = features.split(self.head_size, -1)
        return self._with_std(self.policy(halves[0])), self.value(halves[-1]).squeeze(-1), state

    def _with_std(self, params: Tensor) -> Tensor:
        return params if self.log_std is None else torch.cat((params, self.log_std.expand_as(params)), -1)

    def _recur(self, features: Tensor, state: State, starts: Tensor | None) -> tuple[Tensor, State]:
        """The LSTM over `[B, size]` or `[T, B, size]`, cut where any row begins an episode: few cuts, few calls."""
        assert self.lstm is not None
        if features.dim() == 2:
            outputs, state = self._recur(features.unsqueeze(0), state, None if starts is None else starts.unsqueeze(0))
            return outputs.squeeze(0), state
        state = state or self.initial_state(features.shape[1])
        cuts = [] if starts is None else starts.any(1).nonzero().flatten().tolist()
        pieces = []
        for begin, end in pairwise([0, *(t for t in cuts if t > 0), len(features)]):
            if begin in cuts:
                assert starts is not None
                keep = (~starts[begin]).unsqueeze(-1).to(features.dtype)
                state = (state[0] * keep, state[1] * keep)
            output, (h, c) = self.lstm(features[begin:end], (state[0].unsqueeze(0), state[1].unsqueeze(0)))
            state = (h.squeeze(0), c.squeeze(0))
            pieces.append(output)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces), state

    @torch.inference_mode()
    def act(
        self,
        observations: np.ndarray | Tensor,
        state: State = (),
        starts: np.ndarray | Tensor | None = None,
        deterministic: bool = False,
        noise: Tensor | None = None,
    ) -> tuple[np.ndarray, State]:
        """Actions for a batch of observations `[B, *shape]`, as numpy `[B, *action_shape]`, and the next state.

        Sampled (with `noise` from `distribution.noise(B)`, or fresh), or the most likely ones when deterministic.
        """
        device = next(self.parameters()).device
        starts = None if starts is None else torch.as_tensor(starts, device=device)
        observations = torch.as_tensor(observations, device=device)
        params, _, state = self(observations, state, starts)
        return self.choose(params, deterministic, noise), state

    def choose(self, params: Tensor, deterministic: bool = False, noise: Tensor | None = None) -> np.ndarray:
        """The actions that `act` returns, by their distributions' params `[B, P]`."""
        if deterministic:
            actions = self.distribution.mode(params)
        else:
            noise = self.distribution.noise(params.shape[0], device=params.device) if noise is None else noise
            actions = self.distribution.sample(params, noise.to(params.device))
        actions = actions.reshape(-1, *self.env.action_shape)
        return (actions.float() if actions.is_floating_point() else actions).cpu().numpy()

    def update_normalizers(
        self, *observations: Tensor, gather: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> None:
        """Take observations `[T, B, *shape]` of each shard into the running statistics of every Normalizer inside.

        One that is smaller than a composite observation normalises the vectors, with which it begins. gather: as in
        `Normalizer.update`, where other processes have more shards.
        """
        rows = [each.flatten(0, 1) for each in observations]
        if self.env.agents_vary:
            rows = [each[self.env.present_in(each)] for each in rows]
        for module in self.modules():
            if isinstance(module, Normalizer):
                module.update(*(each.flatten(1)[:, : len(module.mean)] for each in rows), gather=gather)
