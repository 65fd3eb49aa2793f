"""Agents made by the name of their class, with what the user said of them."""

import warnings
from typing import Any

import pytest
import torch

import metta.agent.agent_class
import metta.agent.policy_agent
from metta.agent.agent_class import make_agent, parameter
from metta.agent.encoders import VectorEncoder
from metta.agent.policy_agent import PolicyAgent
from metta.envs.env_spec import EnvName, EnvSpec
from metta.errors import UserError
from metta.keys import keys
from metta.rl.train_config import AGENT_OPTIONS, TrainConfig

SPEC = EnvSpec(EnvName("test"), 1, "vector", (3,), "float32", 2)
PLACE = __name__


class Bare(PolicyAgent):
    def __init__(self, env):
        super().__init__(env, hidden_size=8)


class Sized(PolicyAgent):
    def __init__(self, env, hidden_size):
        super().__init__(env, hidden_size or 8)


class Passing(PolicyAgent):
    def __init__(self, env, **options):
        super().__init__(env, **options)


class Compiled(PolicyAgent):
    def __init__(self, env):
        super().__init__(env, hidden_size=8)
        with warnings.catch_warnings(action="ignore"):  # torch's own, of its compiler
            self.encoder = torch.compile(self.encoder, backend="eager")
            self.value.compile(backend="eager")


class Deep(PolicyAgent):
    def build_encoder(self, env, hidden_size, depth=1, **options):
        self.depth = depth
        return super().build_encoder(env, hidden_size)


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        (None, {"hidden_size": 4, "lstm": True}, {"hidden_size": 4, "lstm": True}),
        ("Bare", {}, {}),
        ("Sized", {}, {"hidden_size": 8}),
        ("Sized", {"hidden_size": 4}, {"hidden_size": 4}),
        ("Passing", {"hidden_size": 4, "lstm": True}, {"hidden_size": 4, "lstm": True}),
        ("Deep", {"depth": 3, "lstm": True}, {"depth": 3, "lstm": True}),
    ],
)
def test_options_reach_the_agent(name, given, taken):
    """An `__init__` of one's own that must name options which nobody gave; an option lost on the way."""
    options: dict[str, Any] = {"hidden_size": None, "lstm": False, **given}
    agent = make_agent(name and f"{PLACE}:{name}", SPEC, **options)
    assert agent.options.items() >= taken.items()


def test_a_new_option_of_metta_s_own_encoders_is_no_burden_to_others(monkeypatch):
    """An option whose default is a word: every agent of one's own refused, though nobody gave it."""

    def build_encoder(env, hidden_size, encoder="mlp"):
        return VectorEncoder(env, hidden_size)

    for module in (metta.agent.agent_class, metta.agent.policy_agent):
        monkeypatch.setattr(module, "build_encoder", build_encoder)
    assert make_agent(None, SPEC, encoder="resnet").options["encoder"] == "resnet"
    assert "encoder" not in make_agent(f"{PLACE}:Bare", SPEC, encoder="mlp").options
    with pytest.raises(UserError, match="^encoder=resnet: "):
        make_agent(f"{PLACE}:Bare", SPEC, encoder="resnet")


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("Bare", {"hidden_size": 4}, "hidden_size=4: agent=PLACE:Bare takes no hidden_size; it takes no options"),
        ("Sized", {"lstm": True}, "lstm=True: agent=PLACE:Sized takes no lstm; it takes hidden_size"),
        ("Passing", {"depth": 3}, "depth=3: agent=PLACE:Passing takes no depth; it takes hidden_size and lstm"),
    ],
)
def test_an_option_that_an_agent_does_not_take_is_an_error(name, given, text):
    """hidden_size= or lstm= that is accepted, written into the run's configuration, and without effect."""
    options: dict[str, Any] = {"hidden_size": None, "lstm": False, **given}
    with pytest.raises(UserError) as caught:
        make_agent(f"{PLACE}:{name}", SPEC, **options)
    assert str(caught.value) == text.replace("PLACE", PLACE)


def test_every_key_that_an_agent_takes_is_one_of_its_options():
    """A key that train, fork= or init= does not hand on to the agent: accepted, saved, and without effect."""
    taken = {name for name in keys(TrainConfig) if parameter(PolicyAgent, name) is not None}
    assert taken - {"env"} == set(AGENT_OPTIONS)


def test_a_compiled_agent_trains_as_it_is_saved(capsys):
    """A resume with other bits, unsaid: the checkpoint had the modules, and not what torch.compile had made of them."""
    agent = make_agent(f"{PLACE}:Compiled", SPEC)
    assert type(agent.encoder) is VectorEncoder
    assert all(module._compiled_call_impl is None for module in agent.modules())
    said = f"metta: agent={PLACE}:Compiled trains without torch.compile, which no checkpoint keeps\n"
    assert capsys.readouterr().err == said
