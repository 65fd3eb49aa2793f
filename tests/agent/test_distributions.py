"""The distributions over actions: several choices at once, and what is forbidden."""

import itertools
import math

import pytest
import torch
from torch.distributions import Categorical as TorchCategorical

from metta.agent.distributions import FORBIDDEN, Categorical, MultiCategorical
from metta.agent.policy_agent import PolicyAgent
from metta.envs.env_spec import EnvName, EnvSpec, Leaf

SIZES = [(3,), (2, 2, 2), (3, 2, 4)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_choices_are_independent_categoricals(sizes: tuple[int, ...]) -> None:
    """Padding that counts as a choice, or parts cut in the wrong places: every action, compared with torch's own."""
    torch.manual_seed(0)
    multi, params = MultiCategorical(sizes), torch.randn(5, sum(sizes), dtype=torch.float64)
    parts = [TorchCategorical(logits=part) for part in params.split(sizes, -1)]
    total = torch.zeros(5, dtype=torch.float64)
    for combination in itertools.product(*map(range, sizes)):
        actions = torch.tensor(combination).expand(5, -1)
        log_prob, entropy = multi.score(params, actions)
        torch.testing.assert_close(log_prob, sum(part.log_prob(a) for part, a in zip(parts, actions.T, strict=True)))
        torch.testing.assert_close(entropy, sum(part.entropy() for part in parts))
        total += log_prob.exp()
    torch.testing.assert_close(total, torch.ones(5, dtype=torch.float64))
    assert multi.mode(params).tolist() == torch.stack([part.probs.argmax(-1) for part in parts], -1).tolist()


def test_samples_follow_the_probabilities() -> None:
    """A draw of one choice that uses another's noise: all pairs would not come out as often as they should."""
    torch.manual_seed(0)
    multi, params = MultiCategorical((2, 3)), torch.tensor([0.0, 1.0, 0.5, 0.0, -0.5])
    drawn = multi.sample(params.expand(40_000, -1), multi.noise(40_000))
    for pair in itertools.product(range(2), range(3)):
        share = (drawn == torch.tensor(pair)).all(-1).float().mean()
        expected = multi.score(params, torch.tensor(pair))[0].exp()
        assert abs(share - expected) < 4 * math.sqrt(expected / 40_000), pair


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_what_is_forbidden_has_no_chance_and_no_gradient(sizes: tuple[int, ...]) -> None:
    """Probability left on illegal actions, entropy counted over them, gradients pushed through them; or NaN from -inf.

    The rest is the distribution over the allowed actions alone, computed by itself.
    """
    torch.manual_seed(1)
    multi, rows = MultiCategorical(sizes), 200
    logits = torch.randn(rows, sum(sizes), dtype=torch.float64, requires_grad=True)
    mask = torch.rand(rows, sum(sizes)) < 0.5
    for part in mask.split(sizes, -1):
        part[torch.arange(rows), torch.randint(part.shape[-1], (rows,))] = True  # a view: something is allowed
    params = logits.masked_fill(~mask, FORBIDDEN)

    def allowed(actions: torch.Tensor) -> bool:
        parts = zip(mask.split(sizes, -1), actions.T, strict=True)
        return all(part.gather(1, chosen[:, None]).all() for part, chosen in parts)

    noise = torch.empty(rows, sum(sizes)).uniform_(-50, 50)  # wilder than Gumbel's ever is
    assert allowed(multi.mode(params)) and all(allowed(multi.sample(params, noise.roll(i))) for i in range(20))
    actions = multi.mode(params)
    log_prob, entropy = multi.score(params, actions)
    (log_prob.sum() + entropy.sum()).backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and (logits.grad[~mask] == 0).all()
    for row in range(rows):
        alone = [
            (TorchCategorical(logits=part[keep]), keep[:chosen].sum())
            for part, keep, chosen in zip(
                logits.detach()[row].split(sizes), mask[row].split(sizes), actions[row].tolist(), strict=True
            )
        ]
        assert math.isclose(log_prob[row].item(), sum(d.log_prob(chosen).item() for d, chosen in alone), abs_tol=1e-9)
        assert math.isclose(entropy[row].item(), sum(d.entropy().item() for d, _ in alone), abs_tol=1e-9)


class Stubborn(PolicyAgent):
    """Wants the last action, whatever it is told."""

    def forward(self, observations, state=(), starts=None):
        params, values, state = super().forward(observations, state, starts)
        return params + torch.tensor([0.0, 0.0, 1000.0]), values, state


@pytest.mark.parametrize("kind", [PolicyAgent, Stubborn])
def test_every_agent_obeys_the_mask(kind: type[PolicyAgent]) -> None:
    """An agent with a forward of its own that plays, or learns from, what is not allowed."""
    leaves = (Leaf((), "vector", (4,), "float32"),)
    spec = EnvSpec(EnvName("e"), 1, "composite", (7,), "float32", 3, leaves=leaves, masked=True)
    agent = kind(spec)
    assert isinstance(agent.distribution, Categorical)
    observations = torch.cat((torch.randn(9, 4), torch.tensor([1.0, 1.0, 0.0]).expand(9, -1)), 1)
    params, *_ = agent(observations)
    assert (params.softmax(-1)[:, 2] == 0).all()
    for deterministic in (False, True):
        assert (agent.act(observations, deterministic=deterministic)[0] < 2).all()
    observations[:, 6] = 1
    chosen = agent.act(observations, deterministic=True)[0]
    assert (chosen == 2).all() or kind is PolicyAgent
