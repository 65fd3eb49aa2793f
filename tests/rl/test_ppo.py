"""PPO's parts against numbers worked out by hand, and against relations they must keep."""

import math

import numpy as np
import pytest
import torch

from metta.agent.distributions import Categorical, Gaussian
from metta.agent.policy_agent import PolicyAgent
from metta.agent.twin_network import TwinNetwork
from metta.envs.env_spec import EnvName, EnvSpec
from metta.moments import Moments, merged
from metta.rl.learning.minibatches import Minibatches
from metta.rl.learning.ppo import explained_variance, gae, ppo_loss, successor_values, update
from metta.rl.learning.reward_scaler import RewardScaler
from metta.rl.learning.rollout import Rollout
from tests.helpers.configs import an_exchange, run_config


def column(*values):
    return np.array(values, dtype=np.float32)[:, None]


def advantages(rewards, values, last=0.0, bootstrap=None, terminated=None, truncated=None, gamma=0.9, lam=0.5):
    steps = len(rewards)
    off = np.zeros((steps, 1), dtype=bool)
    values = column(*values)
    bootstrap = np.zeros((steps, 1), np.float32) if bootstrap is None else column(*bootstrap)
    terminated = off if terminated is None else column(*terminated).astype(bool)
    truncated = off if truncated is None else column(*truncated).astype(bool)
    next_values = successor_values(values, np.array([last], dtype=np.float32), bootstrap, terminated, truncated)
    return gae(column(*rewards), values, next_values, terminated | truncated, gamma, lam)[:, 0]


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


def a_config(**settings):
    defaults = {"clip_coef": 0.2, "vf_coef": 0.5, "ent_coef": 0.0, "update_epochs": 4, "minibatch_size": 16}
    return run_config(**{**defaults, **settings})


def an_agent(lstm=False, num_actions=2):
    torch.manual_seed(0)
    shape = (3,) if num_actions is None else ()
    spec = EnvSpec(EnvName("test"), 1, "vector", (3,), "float32", num_actions, action_shape=shape)
    return PolicyAgent(spec, hidden_size=8, lstm=lstm)


def a_batch(agent, steps, rows, **arrays):
    """A rollout with some of its arrays given; the others are zero."""
    rollout = Rollout.zeros(agent, steps, rows)
    for name, array in arrays.items():
        getattr(rollout, name).copy_(torch.as_tensor(array))
    return rollout


class Fixed:
    """A distribution whose params are the log probabilities themselves, and its entropy 0."""

    @staticmethod
    def score(params, actions):
        return params.squeeze(-1), torch.zeros(params.shape[:-1])


def losses(log_ratio=(0.0,), gains=(0.0,), values=(0.0,), old=(0.0,), returns=(0.0,), vf_clip=None):
    """The statistics, and the gradient by log ratio, of a few steps whose action had log probability 0 before."""
    batch = a_batch(an_agent(), 1, len(gains), values=old, advantages=gains, returns=returns)
    params = torch.tensor([log_ratio], requires_grad=True)
    config = a_config(vf_clip=vf_clip, vf_coef=0.0)
    loss, statistics = ppo_loss(Fixed(), params.unsqueeze(-1), torch.tensor([values]), batch, config)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(loss, params)
    return statistics, gradient[0].tolist()


def test_policy_loss_by_hand():
    """A clip on the wrong side lets a step run away: gains are clipped, losses are not."""
    log_ratio = np.log([1.5, 0.5, 1.5, 0.5]).tolist()
    flat = (0.0,) * 4
    statistics, gradient = losses(log_ratio, (1.0, 1.0, -1.0, -1.0), flat, flat, flat)
    assert statistics.policy_loss.item() == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8) / 4)
    assert gradient == pytest.approx([0, -0.5 / 4, 1.5 / 4, 0])
    assert statistics.clip_fraction == 1
    assert statistics.approx_kl.item() == pytest.approx(-np.mean(log_ratio), abs=1e-6)  # the ratios' mean being 1


def test_value_loss_by_hand():
    """Clipping that takes the smaller error would stop the critic from learning."""
    assert losses(values=(2.0,), returns=(3.0,))[0].value_loss.item() == pytest.approx(0.5)
    assert losses(values=(2.0,), returns=(3.0,), vf_clip=0.5)[0].value_loss.item() == pytest.approx(0.5 * 2.5**2)


@pytest.mark.parametrize("num_actions", [2, None], ids=["categorical", "gaussian"])
def test_the_loss_is_the_weighted_sum_of_its_parts(num_actions):
    """A coefficient with the wrong sign or on the wrong part: an entropy bonus that is a penalty."""
    agent = an_agent(num_actions=num_actions)
    params, values = torch.randn(1, 20, agent.distribution.num_params), torch.randn(1, 20)
    actions = agent.distribution.sample(params, agent.distribution.noise(1, 20))
    batch = a_batch(agent, 1, 20, actions=actions, advantages=torch.randn(1, 20))
    loss, parts = ppo_loss(agent.distribution, params, values, batch, a_config(vf_coef=0.7, ent_coef=0.3))
    assert loss.item() == pytest.approx((parts.policy_loss + 0.7 * parts.value_loss - 0.3 * parts.entropy).item())
    assert parts.entropy == pytest.approx(agent.distribution.score(params, actions)[1].mean().item())


def test_explained_variance():
    """A critic without variance to explain must not be reported as perfect."""

    def explained(values, returns):
        return explained_variance(merged(np.array([[Moments.of(returns - values), Moments.of(returns)]])))

    returns = np.array([1.0, 2.0, 3.0])
    assert explained(returns, returns) == 1
    assert explained(np.zeros(3), returns) == pytest.approx(0)
    assert math.isnan(explained(returns, np.ones(3)))


@pytest.mark.parametrize("reference", [True, False])
def test_categorical_against_torch(reference):
    """Our few lines and torch.distributions agree; the Gumbel-max draw has the softmax's frequencies."""
    torch.manual_seed(0)
    params = torch.tensor([0.3, -1.0, 2.0])
    ours = Categorical(3)
    if reference:
        theirs = torch.distributions.Categorical(logits=params)
        actions = torch.arange(3)
        log_prob, entropy = ours.score(params.expand(3, 3), actions)
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
    log_prob, entropy = ours.score(params, actions)
    assert torch.allclose(log_prob, theirs.log_prob(actions).sum(-1))
    assert torch.allclose(entropy, theirs.entropy().sum(-1))
    noise = torch.tensor([[1.0, -1.0]])
    assert torch.allclose(ours.sample(params, noise), params[:, :2] + params[:, 2:].exp() * noise)


def test_reward_scaler_divides_by_the_discounted_returns_deviation():
    """Statistics that run across episode ends, or over rewards in place of returns, scale by the wrong number."""
    scaler = RewardScaler([1], gamma=0.5)
    rewards, done = column(1, 1, 4), column(0, 1, 0).astype(bool)
    (scaled,) = scaler([(rewards, done)], np.asarray, [...])
    history = np.array([1, 1.5, 4])
    assert scaled[:, 0] == pytest.approx(rewards[:, 0] / history.std(), rel=1e-5)
    (again,) = scaler([(column(2), column(0).astype(bool))], np.asarray, [...])
    history = np.append(history, 0.5 * 4 + 2)
    assert again[0, 0] == pytest.approx(2 / history.std(), rel=1e-5)


def bandit_batch(agent, rows=64, steps=1):
    """Action 1 is good and action 0 bad, whatever is observed."""
    observations = torch.zeros(steps, rows, 3)
    with torch.no_grad():
        params, values, _ = agent(observations, agent.initial_state(rows))
    actions = torch.arange(rows).remainder(2).expand(steps, rows)
    gains = actions.float() * 2 - 1
    log_probs = agent.distribution.score(params, actions)[0]
    return a_batch(
        agent, steps, rows, actions=actions, log_probs=log_probs, values=values, advantages=gains, returns=gains
    )


def dealt(agent, batch, config):
    batch, size = batch if batch.state else batch.independent_steps(), config.minibatch_size
    size = size // len(batch.values) if batch.state else size
    return Minibatches({0: batch}, batch.values.shape[1], size, an_exchange(agent), seed=0)


def an_optimizer(agent):
    return torch.optim.Adam(agent.parameters(), lr=1e-2)


@pytest.mark.parametrize("lstm", [False, True])
def test_update_prefers_the_better_action(lstm):
    """A sign error anywhere in the update makes the agent worse."""
    agent = an_agent(lstm)
    batch = bandit_batch(agent, steps=2 if lstm else 1)
    stats = update(agent, an_optimizer(agent), dealt(agent, batch, a_config()), a_config())
    after = agent(batch.observations, batch.state)[0].softmax(-1)[..., 1].mean().item()
    assert after > 0.55
    assert stats["approx_kl"] > 0 and 0 <= stats["clip_fraction"] <= 1


@pytest.mark.parametrize(("rows", "size", "sizes"), [(65, 64, [32, 33]), (40, 16, [13, 13, 14]), (3, 64, [3])])
def test_no_minibatch_is_a_remainder(rows, size, sizes):
    """One row over, whose only advantage less its mean is 0, so that it teaches nothing, or that BatchNorm refuses."""
    agent = an_agent()
    (minibatches,) = dealt(agent, bandit_batch(agent, rows=rows), a_config(minibatch_size=size)).deal()
    assert [len(minibatch.parts[0].index) for minibatch in minibatches] == sizes


def test_target_kl_ends_the_update(monkeypatch):
    """A target that is computed and then ignored, or compared with another statistic."""
    monkeypatch.setattr(TwinNetwork, "of", classmethod(lambda cls, agent: None))
    agent = an_agent()
    optimizer, steps = an_optimizer(agent), []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    for target_kl, enough in ((1e-6, lambda count: count <= 4), (1e6, lambda count: count > 99)):
        config = a_config(target_kl=target_kl, update_epochs=50, minibatch_size=32)
        update(agent, optimizer, dealt(agent, bandit_batch(agent), config), config)
        assert enough(len(steps))
