"""PPO's parts against numbers worked out by hand, and against relations they must keep."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from metta.agent.distributions import Categorical, Gaussian
from metta.agent.policy_agent import PolicyAgent
from metta.envs.env_spec import EnvName, EnvSpec
from metta.rl.learning.adam import Adam
from metta.rl.learning.ppo import Batch, PPOConfig, explained_variance, gae, gradient_scale, loss_gradients, update
from metta.rl.learning.rollout import RewardScaler


def column(*values):
    return np.array(values, dtype=np.float32)[:, None]


def advantages(rewards, values, last=0.0, bootstrap=None, terminated=None, truncated=None, gamma=0.9, lam=0.5):
    steps = len(rewards)
    off = np.zeros((steps, 1), dtype=bool)
    return gae(
        column(*rewards),
        column(*values),
        np.array([last], dtype=np.float32),
        np.zeros((steps, 1), np.float32) if bootstrap is None else column(*bootstrap),
        off if terminated is None else column(*terminated).astype(bool),
        off if truncated is None else column(*truncated).astype(bool),
        gamma,
        lam,
    )[:, 0]


def test_gae_by_hand():
    """An off-by-one in the recursion or in which value follows which step."""
    # deltas: 1 + .9*2 - 1 = 1.8 ; 0 + .9*4 - 2 = 1.6 ; second decayed by .9*.5 into the first
    assert advantages([1, 0], [1, 2], last=4) == pytest.approx([1.8 + 0.45 * 1.6, 1.6])


def test_gae_stops_at_a_death_and_bootstraps_a_time_out():
    """Time-outs merged with deaths: a truncated episode's future is worth its final observation's value, not zero."""
    dead = advantages([1, 1], [0, 0], last=7, terminated=[1, 0])
    timed_out = advantages([1, 1], [0, 0], last=7, bootstrap=[10, 0], truncated=[1, 0])
    assert dead == pytest.approx([1, 1 + 0.9 * 7])
    assert timed_out == pytest.approx([1 + 0.9 * 10, 1 + 0.9 * 7])


def test_gae_of_an_episode_both_terminated_and_truncated_counts_as_terminated():
    """A death on the last allowed step would otherwise be paid as if the episode went on."""
    assert advantages([1], [0], last=7, bootstrap=[10], terminated=[1], truncated=[1]) == pytest.approx([1])


def test_gae_with_lambda_one_is_return_minus_value():
    """The relation that defines lambda=1 (Schulman et al. 2016, equation 18)."""
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=20), rng.normal(size=20)
    expected: list[float] = []
    running = 3.0
    for reward in rewards[::-1]:
        running = reward + 0.97 * running
        expected.insert(0, running)
    got = advantages(rewards, values, last=3.0, gamma=0.97, lam=1.0)
    assert got + values == pytest.approx(np.array(expected), abs=1e-5)


class Fixed:
    """A distribution whose params are the log probabilities themselves, and its entropy 0."""

    @staticmethod
    def score(params, actions):
        return params.squeeze(-1), torch.zeros(params.shape[:-1]), lambda d_log_prob, _: d_log_prob.unsqueeze(-1)


def losses(log_ratio=(0.0,), gains=(0.0,), values=(0.0,), old=(0.0,), returns=(0.0,), vf_clip=None, ent_coef=0.0):
    """loss_gradients of a few steps whose action was worth log probability 0 before."""
    config = PPOConfig(0.2, 0.5, vf_clip, ent_coef, 0.5, None, 1, 1)
    zeros = torch.zeros(len(gains))
    old, gains, returns = torch.tensor(old), torch.tensor(gains), torch.tensor(returns)
    batch = Batch(zeros, zeros, zeros, zeros, old, gains, returns, ())
    params = torch.tensor(log_ratio).unsqueeze(-1)
    return loss_gradients(Fixed(), params, torch.tensor(values), batch, config, 1 / len(gains))  # type: ignore[arg-type]


def test_policy_loss_by_hand():
    """A clip on the wrong side lets a step run away: gains are clipped, losses are not."""
    log_ratio = np.log([1.5, 0.5, 1.5, 0.5]).tolist()
    flat = (0.0,) * 4
    d_params, _, stats = losses(log_ratio, (1.0, 1.0, -1.0, -1.0), flat, flat, flat)
    assert stats[0].item() == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8) / 4)
    assert d_params.squeeze(-1).tolist() == pytest.approx([0, -0.5 / 4, 1.5 / 4, 0])


def test_value_loss_by_hand():
    """Clipping that takes the smaller error would stop the critic from learning."""
    assert losses(values=(2.0,), returns=(3.0,))[2][1].item() == pytest.approx(0.5)
    assert losses(values=(2.0,), returns=(3.0,), vf_clip=0.5)[2][1].item() == pytest.approx(0.5 * 2.5**2)


def reference_loss(distribution, params, values, batch, config):
    """PPO's loss as the paper has it, for autograd."""
    if isinstance(distribution, Categorical):
        theirs = torch.distributions.Categorical(logits=params)
        log_prob, entropy = theirs.log_prob(batch.actions), theirs.entropy()
    else:
        mean, log_std = params.chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.exp())
        log_prob, entropy = normal.log_prob(batch.actions).sum(-1), normal.entropy().sum(-1)
    ratio = (log_prob - batch.log_probs).exp()
    clipped = ratio.clamp(1 - config.clip_coef, 1 + config.clip_coef)
    policy_loss = -torch.minimum(ratio * batch.advantages, clipped * batch.advantages).mean()
    errors = (values - batch.returns).square()
    if config.vf_clip is not None:
        near = batch.values + (values - batch.values).clamp(-config.vf_clip, config.vf_clip)
        errors = torch.maximum(errors, (near - batch.returns).square())
    value_loss = 0.5 * errors.mean()
    loss = policy_loss - config.ent_coef * entropy.mean() + config.vf_coef * value_loss
    return loss, (policy_loss, value_loss, entropy.mean())


@pytest.mark.parametrize("vf_clip", [None, 0.3])
@pytest.mark.parametrize("distribution", [Categorical(3), Gaussian(2)], ids=["categorical", "gaussian"])
def test_loss_gradients_are_autograds(distribution, vf_clip):
    """A slip in a derivative worked out by hand: training goes on, and learns worse."""
    torch.manual_seed(0)
    rows = 200
    params, values = torch.randn(1, rows, distribution.num_params), torch.randn(1, rows)
    actions = distribution.sample(params, distribution.noise(1, rows))
    old = distribution.score(params + 0.3 * torch.randn_like(params), actions)[0]
    advantages, returns, old_values = (torch.randn(1, rows) for _ in range(3))
    batch = Batch(torch.zeros(1, rows), torch.zeros(1, rows), actions, old, old_values, advantages, returns, ())
    config = PPOConfig(0.2, 0.7, vf_clip, 0.05, 0.5, None, 1, 1)
    d_params, d_values, stats = loss_gradients(distribution, params, values, batch, config, 1 / rows)
    params.requires_grad_()
    values.requires_grad_()
    loss, parts = reference_loss(distribution, params, values, batch, config)
    loss.backward()
    assert params.grad is not None and values.grad is not None
    assert torch.allclose(d_params, params.grad, atol=1e-7) and torch.allclose(d_values, values.grad, atol=1e-7)
    assert torch.allclose(stats[:3], torch.stack(parts), atol=1e-6)
    assert 0 < stats[4] < 1  # some ratios are beyond the clip range, some within


def test_explained_variance():
    """A critic without variance to explain must not be reported as perfect."""
    returns = np.array([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(np.zeros(3), returns) == pytest.approx(0)
    assert math.isnan(explained_variance(returns, np.ones(3)))


@pytest.mark.parametrize("reference", [True, False])
def test_categorical_against_torch(reference):
    """Our few lines and torch.distributions agree; the Gumbel-max draw has the softmax's frequencies."""
    torch.manual_seed(0)
    params = torch.tensor([0.3, -1.0, 2.0])
    ours = Categorical(3)
    if reference:
        theirs = torch.distributions.Categorical(logits=params)
        actions = torch.arange(3)
        log_prob, entropy, _ = ours.score(params.expand(3, 3), actions)
        assert torch.allclose(log_prob, theirs.log_prob(actions))
        assert torch.allclose(entropy, theirs.entropy())
    else:
        drawn = ours.sample(params.expand(50_000, 3), ours.noise(50_000))
        assert torch.allclose(drawn.bincount(minlength=3) / 50_000, params.softmax(-1), atol=0.01)


def test_gaussian_against_torch():
    """Our few lines and torch.distributions agree."""
    params = torch.tensor([[0.5, -1.0, 0.2, -0.7]])
    theirs = torch.distributions.Normal(params[:, :2], params[:, 2:].exp())
    actions = torch.tensor([[0.1, 0.4]])
    ours = Gaussian(2)
    log_prob, entropy, _ = ours.score(params, actions)
    assert torch.allclose(log_prob, theirs.log_prob(actions).sum(-1))
    assert torch.allclose(entropy, theirs.entropy().sum(-1))
    noise = torch.tensor([[1.0, -1.0]])
    assert torch.allclose(ours.sample(params, noise), params[:, :2] + params[:, 2:].exp() * noise)


def test_reward_scaler_divides_by_the_discounted_returns_deviation():
    """Statistics that run across episode ends, or over rewards in place of returns, scale by the wrong number."""
    scaler = RewardScaler(1, gamma=0.5)
    rewards, done = column(1, 1, 4), column(0, 1, 0).astype(bool)
    scaled = scaler(rewards, done)
    history = np.array([1, 1.5, 4])
    assert scaled[:, 0] == pytest.approx(rewards[:, 0] / history.std(), rel=1e-5)
    again = scaler(column(2), column(0).astype(bool))
    history = np.append(history, 0.5 * 4 + 2)
    assert again[0, 0] == pytest.approx(2 / history.std(), rel=1e-5)


PPO = PPOConfig(0.2, 0.5, None, 0.0, 0.5, None, update_epochs=4, minibatch_size=16)


def bandit_batch(agent, rows=64, steps=1):
    """Action 1 is good and action 0 bad, whatever is observed."""
    observations = torch.zeros(steps, rows, 3)
    with torch.no_grad():
        params, values, _ = agent(observations, agent.initial_state(rows))
    actions = torch.arange(rows).remainder(2).expand(steps, rows)
    gains = actions.float() * 2 - 1
    starts = torch.zeros(steps, rows, dtype=torch.bool)
    log_probs = agent.distribution.score(params, actions)[0]
    return Batch(observations, starts, actions, log_probs, values, gains, gains, agent.initial_state(rows))


@pytest.mark.parametrize("lstm", [False, True])
def test_update_prefers_the_better_action(lstm):
    """A sign error anywhere in the update makes the agent worse."""
    torch.manual_seed(0)
    agent = PolicyAgent(EnvSpec(EnvName("test"), 1, "vector", (3,), "float32", 2), hidden_size=8, lstm=lstm)
    optimizer = Adam(list(agent.parameters()), lr=1e-2)
    batch = bandit_batch(agent, steps=2 if lstm else 1)
    stats = update(agent, optimizer, batch, PPO)
    after = agent(batch.observations, batch.state)[0].softmax(-1)[..., 1].mean().item()
    assert after > 0.55
    assert stats["approx_kl"] > 0 and 0 <= stats["clip_fraction"] <= 1


@pytest.mark.parametrize("max_norm", [1e-3, 1e3])
def test_scaled_steps_are_torchs_adam_with_clipped_gradients(max_norm):
    """Adam undoes most of a wrong scale, so that training would go on with gradients that nothing limits; a parameter
    without a gradient that loses its turn for good; a state loaded and not used."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.ones(n)) for n in (3, 5)] for _ in range(2))
    mine, torchs = Adam(ours, lr=1e-2, eps=1e-2), torch.optim.Adam(theirs, lr=1e-2, eps=1e-2)
    for turn in range(9):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        if turn in (0, 5):
            ours[1].grad = theirs[1].grad = None
        if turn == 4:
            ours[0].grad = theirs[0].grad = None
        if turn == 7:
            mine, state = Adam(ours, lr=1e-2, eps=1e-2), mine.state_dict()
            mine.load_state_dict(state)
        for optimizer in (mine, torchs):
            optimizer.param_groups[0]["lr"] = 1e-2 / (1 + turn)
        mine.scaled_step(gradient_scale(ours, max_norm))
        nn.utils.clip_grad_norm_(theirs, max_norm)
        torchs.step()
    assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(ours, theirs, strict=True))
    assert len(mine._state) == 3  # by the kernel alone, in the end


def test_target_kl_ends_the_update():
    """A target that is computed and then ignored."""
    passes = []

    class Counting(Adam):
        def scaled_step(self, scale):
            passes.append(1)
            super().scaled_step(scale)

    torch.manual_seed(0)
    agent = PolicyAgent(EnvSpec(EnvName("test"), 1, "vector", (3,), "float32", 2), hidden_size=8)
    config = PPOConfig(0.2, 0.5, None, 0.0, 0.5, 1e-6, update_epochs=50, minibatch_size=32)
    update(agent, Counting(list(agent.parameters()), lr=1e-2), bandit_batch(agent), config)
    assert len(passes) <= 4
