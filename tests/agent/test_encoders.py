"""The sparse first layer against the dense product that it stands for, and the other encoders' shapes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metta.agent.encoders import ImageEncoder, Normalizer, SparseProduct, TokenEncoder
from metta.agent.policy_agent import PolicyAgent
from metta.envs.env_spec import EnvName, EnvSpec, TokenSpec

TOKENS = TokenSpec(
    window=(3, 3),
    features=((0, "agent:group", 10.0), (1, "tag", 10.0), (2, "inv:ore", 256.0)),
    tags=("type:agent", "type:wall"),
    action_names=("noop", "move_north"),
)


SPECS = [
    EnvSpec(EnvName("vector"), 1, "vector", (4,), "float32", 2),
    EnvSpec(EnvName("box"), 1, "vector", (3,), "float32", None, (-2.0, -2.0), (2.0, 2.0), (2,)),
    EnvSpec(EnvName("small image"), 1, "image", (10, 10, 4), "bool", 6),
    EnvSpec(EnvName("atari"), 1, "image", (4, 84, 84), "uint8", 6),
    EnvSpec(EnvName("tokens"), 3, "tokens", (6, 3), "uint8", 5, tokens=TOKENS),
]


@pytest.mark.parametrize("lstm", [False, True])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.env.name)
def test_every_kind_of_agent_acts_and_learns(spec, lstm):
    """A shape that only fits one kind of observation or action; a parameter that no gradient reaches."""
    torch.manual_seed(0)
    agent = PolicyAgent(spec, hidden_size=16, lstm=lstm)
    observations = np.zeros((7, *spec.observation_shape), spec.observation_dtype)
    if spec.observation_kind == "tokens":
        observations[:, :, 1] = 1
    actions, _ = agent.act(observations, agent.initial_state(7), np.ones(7, bool))
    assert actions.shape == (7, *spec.action_shape)
    sequence = torch.from_numpy(np.stack([observations] * 5))
    params, values, _ = agent(sequence, agent.initial_state(7))
    assert params.shape == (5, 7, agent.distribution.num_params) and values.shape == (5, 7)
    (params.square().sum() + values.sum()).backward()
    assert all(parameter.grad is not None for parameter in agent.parameters())


def test_a_small_grid_s_scale_does_not_matter():
    """MiniGrid's cells are 0 to 10 in a space that says 255, so that 100,000 steps taught nothing."""
    torch.manual_seed(0)
    spec = EnvSpec(EnvName("small grid"), 1, "image", (7, 7, 3), "uint8", 7)
    encoder = ImageEncoder(spec, None)
    faint = torch.randint(11, (16, 7, 7, 3), dtype=torch.uint8)
    torch.testing.assert_close(encoder(faint * 23), encoder(faint), atol=0.05, rtol=0)


def test_lstm_over_a_sequence_is_the_lstm_step_by_step():
    """An update that sees other recurrent states than the rollout did, where episodes begin in the middle."""
    torch.manual_seed(0)
    agent = PolicyAgent(SPECS[0], hidden_size=8, lstm=True)
    observations, starts = torch.randn(6, 3, 4), torch.zeros(6, 3, dtype=torch.bool)
    starts[0, 0] = starts[2, 1] = starts[5, :] = True
    state = tuple(torch.randn(3, 16) for _ in range(2))
    params, values, last = agent(observations, state, starts)
    for t in range(6):
        one_params, one_values, state = agent(observations[t], state, starts[t])
        assert torch.allclose(one_params, params[t], atol=1e-6) and torch.allclose(one_values, values[t], atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(state, last, strict=True))


def test_token_encoder_is_the_dense_product():
    """Tokens read at the wrong cell or channel, padding that counts, or a global token taken for a cell."""
    torch.manual_seed(0)
    encoder = TokenEncoder(EnvSpec(EnvName("t"), 1, "tokens", (6, 3), "uint8", 2, tokens=TOKENS), hidden_size=5)
    tokens = [(0x11, 0, 5), (0x11, 1, 1), (0x02, 2, 3), (0xFE, 0, 10), (0xFF, 0xFF, 0xFF), (0xFF, 0xFF, 0xFF)]
    dense = torch.zeros(10, 4)  # cells and the global one; group, two tags, ore
    dense[4, 0], dense[4, 2], dense[2, 3], dense[9, 0] = 0.5, 1.0, 0.5, 1.0
    expected = encoder.bias + dense.flatten() @ encoder.table
    observations = torch.tensor([tokens, tokens], dtype=torch.uint8)
    assert torch.allclose(encoder.first_layer(observations), expected.expand(2, 5), atol=1e-6)


def test_an_observation_without_a_token_is_zero():
    """Nothing to see is not an error, and not another row's tokens."""
    encoder = TokenEncoder(EnvSpec(EnvName("t"), 1, "tokens", (6, 3), "uint8", 2, tokens=TOKENS), hidden_size=5)
    empty = torch.full((2, 6, 3), 255, dtype=torch.uint8)
    assert torch.equal(encoder.first_layer(empty), encoder.bias.expand(2, 5))


def test_sparse_product_has_embedding_bags_gradient():
    """Our own backward against torch's, with repeated indices and empty rows."""
    torch.manual_seed(0)
    counts = torch.tensor([3, 0, 5, 1, 0])
    index = torch.randint(0, 7, (9,), dtype=torch.int32)
    weight, upstream = torch.rand(9), torch.randn(5, 4)
    table = torch.randn(7, 4, requires_grad=True)
    ours = SparseProduct.apply(table, index, weight, counts)
    (gradient,) = torch.autograd.grad(ours, table, upstream)
    offsets = (counts.cumsum(0) - counts).int()
    theirs = F.embedding_bag(index, table, offsets, mode="sum", per_sample_weights=weight)
    assert torch.equal(ours, theirs)
    assert torch.allclose(gradient, torch.autograd.grad(theirs, table, upstream)[0], atol=1e-6)


def test_normalizer_merges_batches_exactly():
    """Statistics of two batches are those of both together; before the first, observations pass unchanged."""
    torch.manual_seed(0)
    data = torch.randn(100, 3) * torch.tensor([1.0, 10.0, 0.1]) + 5
    normalizer = Normalizer(3)
    assert torch.equal(normalizer(data.clamp(-9, 9)), data.clamp(-9, 9))
    normalizer.update(data[:30])
    normalizer.update(data[30:])
    assert torch.allclose(normalizer.mean, data.double().mean(0))
    assert torch.allclose(normalizer.var, data.double().var(0, correction=0))
    out = normalizer(data)
    assert out.mean().abs() < 1e-4 and (out.std(0, correction=0) - 1).abs().max() < 1e-4
