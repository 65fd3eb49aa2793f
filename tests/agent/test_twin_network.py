"""The hand-written fast path against the plain form, and every case in which it must stand back."""

import copy
from types import MethodType

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from metta.agent.policy_agent import PolicyAgent
from metta.agent.twin_network import TwinNetwork
from metta.envs.env_spec import EnvName, EnvSpec
from metta.rl.learning.minibatches import Minibatches
from metta.rl.learning.ppo import ppo_loss, update
from metta.rl.learning.rollout import Rollout
from metta.rl.one_run import Trainer
from metta.rl.train_config import TrainConfig
from tests.helpers.configs import an_exchange, run_config

CONFIG = run_config(clip_coef=0.2, vf_coef=0.7, ent_coef=0.05, update_epochs=2, minibatch_size=40)
DISCRETE = EnvSpec(EnvName("test"), 1, "vector", (5,), "float32", 3)
CONTINUOUS = EnvSpec(EnvName("test"), 1, "vector", (5,), "float32", None, action_shape=(2,))


def an_agent(spec=DISCRETE, agent_class=PolicyAgent):
    """Weights so large that every tanh and every ratio is bent."""
    torch.manual_seed(0)
    agent = agent_class(spec)
    for parameter in agent.parameters():
        nn.init.normal_(parameter, std=0.3)
    agent.update_normalizers(torch.randn(2, 7, 5))
    return agent


def a_rollout(agent, rows, steps=2):
    """Of an agent that has changed since."""
    rollout = Rollout.zeros(agent, steps, rows)
    rollout.observations.normal_()
    with torch.no_grad():
        params, _, _ = agent(rollout.observations)
        rollout.actions.copy_(agent.distribution.sample(params, agent.distribution.noise(steps, rows)))
        rollout.log_probs.copy_(agent.distribution.score(params, rollout.actions)[0])
    for array in (rollout.advantages, rollout.returns, rollout.values):
        array.normal_()
    rollout.log_probs += 0.3 * torch.randn_like(rollout.log_probs)
    return rollout


def gradients(agent):
    return {name: parameter.grad for name, parameter in agent.named_parameters()}


@pytest.mark.parametrize("rows", [2, 700])  # tanh is computed in two ways
@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["categorical", "gaussian"])
def test_it_acts_as_the_agent_does(spec, rows):
    """A policy that is another function than the one that is trained; actions of another shape or distribution."""
    agent = an_agent(spec)
    twin = TwinNetwork.of(agent)
    assert twin is not None
    observations, noise = torch.randn(rows, 5), agent.distribution.noise(rows)
    assert torch.allclose(twin.policy(observations), agent(observations)[0], atol=1e-5)
    for deterministic in (False, True):
        ours, theirs = (who.act(observations, (), None, deterministic, noise)[0] for who in (twin, agent))
        assert ours.shape == theirs.shape and np.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("vf_clip", [None, 0.3])
@pytest.mark.parametrize("rows", [2, 700])
@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["categorical", "gaussian"])
def test_its_gradients_are_autograds(spec, rows, vf_clip):
    """A slip in a derivative worked out by hand, or a term of the loss that it does not have: training goes on, and
    learns worse, or as before."""
    agent, share = an_agent(spec), 0.25
    rollout = a_rollout(agent, rows)
    config = run_config(clip_coef=0.2, vf_coef=0.7, vf_clip=vf_clip, ent_coef=0.05)
    params, values, _ = agent(rollout.observations)
    loss, expected = ppo_loss(agent.distribution, params, values, rollout, config)
    (share * loss).backward()
    theirs = gradients(agent)
    agent.zero_grad()
    agent.value.bias.grad = torch.ones(1)  # of an earlier backward, to be added to
    twin = TwinNetwork.of(agent)
    assert twin is not None
    statistics = twin.backward(rollout, config, share)
    assert statistics.keys() == expected._asdict().keys()
    for name, value in expected._asdict().items():
        assert torch.allclose(statistics[name], share * value.detach(), atol=1e-5), name
    assert rows == 2 or 0 < statistics["clip_fraction"] < share  # some ratios are beyond the clip range, some within
    for name, gradient in gradients(agent).items():
        assert gradient is not None and theirs[name] is not None
        assert gradient.shape == theirs[name].shape
        assert torch.allclose(gradient - int(name == "value.bias"), theirs[name], rtol=1e-4, atol=1e-6), name


class Recorder:
    """Stands for the configuration: notes what is read of it."""

    def __init__(self, config):
        self.config, self.read = config, set()

    def __getattr__(self, name):
        self.read.add(name)
        return getattr(self.config, name)


def test_it_reads_the_coefficients_that_the_loss_reads():
    """A coefficient that is new in ppo_loss, and without effect on the agents that most people train."""
    agent = an_agent()
    rollout = a_rollout(agent, 7)
    plain, ours = Recorder(CONFIG), Recorder(CONFIG)
    params, values, _ = agent(rollout.observations)
    ppo_loss(agent.distribution, params, values, rollout, plain)  # type: ignore[arg-type]
    twin = TwinNetwork.of(agent)
    assert twin is not None
    twin.backward(rollout, ours, 1.0)
    assert ours.read == plain.read


@pytest.mark.parametrize("max_norm", [1e-3, 1e3])
def test_its_steps_are_torchs_adam_with_clipped_gradients(max_norm):
    """Adam undoes most of a wrong scale, so that training would go on with gradients that nothing limits; a state
    loaded and not used; a scale that stays on the optimiser for other steps."""
    ours, theirs = an_agent(), an_agent()
    mine, torchs = (torch.optim.Adam(agent.parameters(), lr=1e-2, eps=1e-2, fused=True) for agent in (ours, theirs))
    for turn in range(9):
        torch.manual_seed(turn)
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        if turn == 5:
            state, mine = mine.state_dict(), torch.optim.Adam(ours.parameters(), fused=True)
            mine.load_state_dict(state)
        for optimizer in (mine, torchs):
            optimizer.param_groups[0]["lr"] = 1e-2 / (1 + turn)
        twin = TwinNetwork.of(ours)
        assert twin is not None
        if turn == 7:  # without it, which may happen at any time
            nn.utils.clip_grad_norm_(ours.parameters(), max_norm)
            mine.step()
        else:
            twin.step(mine, max_norm)
        nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
        torchs.step()
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in pairs)


class Doubled(PolicyAgent):
    def forward(self, observations, state=(), starts=None):
        params, values, state = super().forward(observations, state, starts)
        return 2 * params, values, state


class Squared(PolicyAgent):
    def __init__(self, env):
        super().__init__(env)
        self.scale = nn.Parameter(torch.ones(()))


def doubled_gradient(gradient):
    return 2 * gradient


def double_in_place(parameter):
    parameter.grad.mul_(2)


def doubled_output(module, inputs, output):
    return 2 * output


def with_old_weight_norm(agent):
    agent.policy = nn.utils.weight_norm(agent.policy)


def with_old_spectral_norm(agent):
    agent.policy = nn.utils.spectral_norm(agent.policy)


def with_weight_norm(agent):
    parametrizations.weight_norm(agent.policy)


def with_spectral_norm_of_the_encoder(agent):
    parametrizations.spectral_norm(agent.encoder, "weight1")


def with_other_head(agent):
    agent.policy = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3))


def with_no_bias(agent):
    agent.value = nn.Linear(64, 1, bias=False)


def with_two_layers_of_one_weight(agent):
    agent.encoder.bias2 = agent.encoder.bias1


def with_replaced_forward(agent):
    agent.encoder.forward = MethodType(lambda self, x: type(self).forward(self, 2 * x), agent.encoder)


def with_a_frozen_weight(agent):
    agent.encoder.weight1.requires_grad_(False)


CHANGES = {
    "forward hook": lambda agent: agent.policy.register_forward_hook(doubled_output),
    "forward pre-hook": lambda agent: agent.value.register_forward_pre_hook(lambda module, x: (2 * x[0],)),
    "forward hook of the agent": lambda agent: agent.register_forward_hook(
        lambda module, x, y: (2 * y[0], *y[1:]),
    ),
    "forward hook of the normaliser": lambda agent: agent.encoder.normalizer.register_forward_hook(doubled_output),
    "backward hook": lambda agent: agent.policy.register_full_backward_hook(lambda module, x, y: (2 * x[0],)),
    "backward pre-hook": lambda agent: agent.policy.register_full_backward_pre_hook(lambda module, y: (2 * y[0],)),
    "hook of a tensor": lambda agent: agent.policy.weight.register_hook(doubled_gradient),
    "hook after a tensor's gradient": lambda agent: agent.policy.weight.register_post_accumulate_grad_hook(
        double_in_place
    ),
    "weight_norm, old": with_old_weight_norm,
    "spectral_norm, old": with_old_spectral_norm,
    "weight_norm": with_weight_norm,
    "spectral_norm": with_spectral_norm_of_the_encoder,
    "another head": with_other_head,
    "a head without bias": with_no_bias,
    "shared weights": with_two_layers_of_one_weight,
    "a replaced forward": with_replaced_forward,
    "a frozen weight": with_a_frozen_weight,
}
CLASSES = {"an own forward": Doubled, "a parameter more": Squared}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("case", [*CHANGES, *CLASSES])
def test_changed_agents_train_as_autograd_trains_them(case):
    """Hooks that are passed over, weights that a normalisation replaced and that never change, a head without bias
    that is a TypeError."""

    def make():
        agent = an_agent(agent_class=CLASSES.get(case, PolicyAgent))
        torch.manual_seed(1)
        CHANGES.get(case, lambda agent: None)(agent)
        return agent

    ours, theirs = make(), make()
    before = copy.deepcopy(ours.state_dict())
    rollout = a_rollout(theirs, 100)
    for agent in (ours, theirs):
        agent.load_state_dict(before)
    torch.manual_seed(2)
    optimizer = torch.optim.Adam(ours.parameters(), lr=1e-2, eps=1e-5, fused=True)
    batch = rollout.independent_steps()
    update(ours, optimizer, Minibatches({0: batch}, 200, 40, an_exchange(ours), seed=0), CONFIG)

    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-2, eps=1e-5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for index in torch.randperm(200, generator=generator).split(40):
            minibatch = batch.rows(index)
            advantages = minibatch.advantages
            minibatch.advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
            optimizer.zero_grad()
            params, values, _ = theirs(minibatch.observations)
            ppo_loss(theirs.distribution, params, values, minibatch, CONFIG)[0].backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), CONFIG.max_grad_norm)
            optimizer.step()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4), name
        assert torch.equal(one, before[name]) == (not one.requires_grad or name == "scale"), name


def test_a_hook_of_all_modules_is_heeded():
    """What torch lets one register for every module at once, to watch or to change it."""
    agent, seen = an_agent(), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, x, y: seen.append(module))
    try:
        assert TwinNetwork.of(agent) is None
    finally:
        handle.remove()
    assert TwinNetwork.of(agent) is not None


@pytest.mark.parametrize("settings", [{"env": "CartPole-v1", "num_shards": 2}, {"env": "Pendulum-v1"}])
def test_training_without_it_is_the_same_but_for_rounding(settings, monkeypatch):
    """An agent that only learns by the fast path, or learns something else by it."""

    def trained():
        trainer = Trainer(TrainConfig(run="r", num_envs=4, horizon=64, num_workers=0, device="cpu", **settings))
        with_it = TwinNetwork.of(trainer.agent) is not None
        logged = trainer.run_epoch()
        trainer.close()
        return with_it, trainer.agent.state_dict(), logged

    fast = trained()
    monkeypatch.setattr(TwinNetwork, "of", classmethod(lambda cls, agent: None))
    plain = trained()
    assert (fast[0], plain[0]) == (True, False)
    for name, value in fast[1].items():
        assert torch.allclose(value, plain[1][name], rtol=1e-3, atol=1e-4), name
    for name in plain[2].keys() - {"charts/steps_per_second"}:
        assert plain[2][name] == pytest.approx(fast[2][name], rel=1e-3, abs=1e-4), name
