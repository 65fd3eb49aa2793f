"""State inside the agent is state: neither the number of processes nor a resume changes a bit of an agent's own."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from metta.errors import MettaError, UserError
from metta.rl.one_run import Trainer, load_trainer
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig
from tests.helpers import stateful_agents
from tests.helpers.exact import differences, run_epochs
from tests.helpers.small_envs import Seeding, env_id

EPOCHS = 2  # before the interruption, and after it
REFUSED = ["PythonCounter", "PlainTensor", "UsageCounts", "Growing", "LateCounter"]  # by several shards


def make_config(tmp_path, name, workers=0, num_shards=2, **settings):
    """9 environments that are truncated at different steps, and minibatches of 40, 40 and 1."""
    defaults: dict[str, Any] = {"env": "CartPole-v1", "num_envs": 9, "horizon": 9, "minibatch_size": 40, "lstm": False}
    return TrainConfig(
        run="run",
        env_settings={"max_episode_steps": 7},
        train_dir=str(tmp_path),
        agent=f"tests.helpers.stateful_agents:{name}",
        num_workers=workers,
        num_shards=num_shards,
        total_timesteps=10**6,
        hidden_size=8,
        update_epochs=2,
        device="cpu",
        display="none",
        **{**defaults, **settings},
    )


def bits(trainer, epochs):
    """What the agent, its attributes and the trainer are after some epochs."""
    logged = run_epochs(trainer, epochs)
    agent = {
        name: tensor.clone() for name, tensor in (*trainer.agent.named_parameters(), *trainer.agent.named_buffers())
    }
    state = trainer.state_dict()
    trainer.close()
    del state["config"]
    return agent, state, logged


def resumed(config, workers, tmp_path):
    """The same, after half of the epochs in one process and a resume in others."""
    trainer, manager = Trainer(config), TinyCheckpointManager(config.run, tmp_path)
    run_epochs(trainer, EPOCHS)
    manager.save_checkpoint(trainer.agent, trainer.epoch, trainer.state_dict())
    trainer.close()
    again = load_trainer(manager, replace(config, num_workers=workers), frozenset(["num_workers"]))
    assert again is not None
    assert len(again.crew._workers) == workers
    return bits(again, EPOCHS)


def assert_exact(config, tmp_path, workers):
    agent, state, logged = bits(Trainer(config), 2 * EPOCHS)
    assert differences((agent, state, logged[EPOCHS:]), resumed(config, workers, tmp_path)) == []


QUICK: list[tuple[str, dict[str, Any]]] = [
    ("BatchNormAgent", {"minibatch_size": 41}),  # it has no statistics of a single row: 41 and 40
    ("AssignedAverage", {}),
    ("StepCounter", {"lstm": True, "num_shards": 3}),
    ("Dropout", {}),
    ("DrawnState", {}),
    ("HalfPrecision", {}),
    ("HookedTensors", {}),
    ("Parametrised", {}),
]
SLOW: list[tuple[str, dict[str, Any]]] = [
    (name, {}) for name in ("RunningMean", "StepCounter", "LargestYet", "OldSpectralNorm", "KeepsFeatures")
]
SLOW += [("RunningMean", {"lstm": True, "num_shards": 3})]


@pytest.mark.parametrize(
    ("name", "settings"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_neither_workers_nor_a_resume_change_a_bit(name, settings, tmp_path):
    """Buffers of which each process goes on with its own, while a resume hands all of them the first one's."""
    assert_exact(make_config(tmp_path, name, **settings), tmp_path, workers=1)


@pytest.mark.parametrize(("name", "settings"), QUICK)
def test_a_resume_in_one_process_changes_no_bit(name, settings, tmp_path):
    """State that no checkpoint has, and that differs by shard."""
    assert_exact(make_config(tmp_path, name, **settings), tmp_path, workers=0)


@pytest.mark.parametrize("name", ["Dropout", "DrawnState"])
def test_an_environment_that_seeds_all_chance_changes_no_bit_of_the_agent_s(name, tmp_path):
    """An agent that draws, from generators that environments have seeded where they are in its process."""
    settings: dict[str, Any] = {"env": env_id(Seeding), "num_shards": 1}
    with torch.enable_grad():  # which is put back as it was
        one, other = (bits(Trainer(make_config(tmp_path, name, workers, **settings)), EPOCHS) for workers in (0, 1))
    assert differences(one[:2], other[:2]) == []


@pytest.mark.parametrize("num_shards", [1, 2])
@pytest.mark.parametrize(("name", "buffer"), [("BatchNormAgent", "norm.running_var"), ("StepCounter", "calls")])
def test_the_buffers_go_on(name, buffer, num_shards, tmp_path):
    """Buffers that are the same everywhere because they are put back to where they began."""
    trainer = Trainer(make_config(tmp_path, name, num_shards=num_shards, minibatch_size=41))
    before = trainer.agent.get_buffer(buffer).clone()
    run_epochs(trainer, 1)
    after = trainer.agent.get_buffer(buffer)
    trainer.close()
    assert not torch.equal(before, after)
    if name == "StepCounter":  # the rollout's 9 steps and its end, and twice 2 minibatches
        assert after == 10 + 4


@pytest.mark.parametrize(
    ("name", "what"),
    [("PythonCounter", "steps, no buffer"), ("PlainTensor", "history, no buffer")],
)
def test_what_is_no_buffer_is_refused_before_training(name, what, tmp_path):
    """A counter that counts in each process by itself, and which nothing brings together."""
    expected = f"{name}'s forward changes {what}.*num_shards=1 trains it"
    with pytest.raises(UserError, match=expected):
        Trainer(make_config(tmp_path, name))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", ["UsageCounts", "Growing", "LateCounter"])
def test_a_buffer_that_cannot_be_merged_is_refused_by_name(name, workers, tmp_path):
    """Numbers that have no mean, taken from the first process without a word."""
    trainer = Trainer(make_config(tmp_path, name, workers))
    with pytest.raises(MettaError, match=f"{name}'s forward changes calls, a buffer .*num_shards=1 trains it"):
        run_epochs(trainer, 2)
    trainer.close()


@pytest.mark.parametrize("name", [*REFUSED, "AssignedAverage", "BatchNormAgent"])
def test_one_shard_trains_and_resumes_what_several_cannot(name, tmp_path):
    """A refusal's advice that does not work; plain attributes and non-persistent buffers that no checkpoint has."""
    assert_exact(make_config(tmp_path, name, num_shards=1, minibatch_size=41), tmp_path, workers=0)


def test_every_stateful_agent_is_tried():
    """An agent of these that no test trains."""
    trained = {name for name, _ in QUICK + SLOW}
    own = {
        n for n, c in vars(stateful_agents).items() if isinstance(c, type) and c.__module__ == stateful_agents.__name__
    }
    assert own == trained | set(REFUSED) | {"Buffered"}
