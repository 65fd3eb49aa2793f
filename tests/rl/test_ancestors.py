"""init= and fork=: a run that begins with another's agent, or with all of another's state."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from metta.errors import MettaError, UserError
from metta.eval.event_files import pace_of
from metta.rl.one_run import Trainer
from metta.rl.saving.saved_config import newest_config
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig
from metta.rl.trainer import train
from metta.tools import runs
from tests.helpers.commands import result_of
from tests.helpers.exact import curves, differences
from tests.rl.test_on_epoch import SMALL, STEPS, command, config, final

PARENT: dict[str, Any] = {"env_settings": {"max_episode_steps": 30}, "num_shards": 2, "num_workers": 0}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with run a, four epochs long, stopped after two and gone on with."""
    folder = tmp_path_factory.mktemp("parent")
    assert train(config(folder, "a", **PARENT)) == 0
    return folder


def fork(folder: Path, run: str, **values: Any) -> TrainConfig:
    return TrainConfig(**{"run": run, "train_dir": str(folder), "fork": "a:2", "display": "none", **values})


def test_a_fork_with_no_other_key_has_the_originals_bits(parent: Path) -> None:
    """State that a resume restores and a fork forgets: then no counterfactual says what its key alone changed."""
    assert train(fork(parent, "same")) == 0
    assert train(fork(parent, "workers", num_workers=1)) == 0
    assert differences(final(parent, "a"), final(parent, "same")) == []
    assert differences(final(parent, "a"), final(parent, "workers")) == []
    assert TinyCheckpointManager("same", parent).list_epochs() == [2, 3, 4]
    mine, theirs = curves(parent / "same"), curves(parent / "a")
    assert {name: points for name, points in mine.items() if "losses" in name} == {
        name: points[2:] for name, points in theirs.items() if "losses" in name
    }


def test_a_fork_with_other_keys_is_the_counterfactual(parent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key that is taken and changes nothing; ancestry that nobody can find again; the original touched."""
    before = final(parent, "a")
    assert train(fork(parent, "other", gamma=0.5, seed=9, total_timesteps=STEPS * 3)) == 0
    assert differences(before, final(parent, "a")) == []
    assert [name for name in differences(before[2], final(parent, "other")[2]) if "reward_scaler" in name]
    assert train(fork(parent, "deeper", fork="other", learning_rate=0.1, total_timesteps=STEPS * 4)) == 0
    saved = newest_config(TinyCheckpointManager("deeper", parent))
    assert saved is not None
    assert {name: saved["config"][name] for name in ("fork", "ancestry", "gamma", "seed", "learning_rate")} == {
        "fork": "other:3",
        "ancestry": "fork=other:3 fork=a:2",
        "gamma": 0.5,
        "seed": 9,
        "learning_rate": 0.1,
    }
    ((step, rate),) = curves(parent / "deeper")["charts/learning_rate"]
    assert step == STEPS * 4 and rate == pytest.approx(0.1 * (1 - 3 / 4))
    capsys.readouterr()
    assert runs.main([f"train_dir={parent}"]) == 0
    assert re.search(r"^deeper .* fork=other:3 fork=a:2$", capsys.readouterr().out, re.MULTILINE)
    again = fork(parent, "deeper", fork="other", learning_rate=0.1, total_timesteps=STEPS * 5)
    assert train(again) == 0  # the same command goes on
    with pytest.raises(UserError, match="^fork=a:2: run deeper was started with fork=other:3, and keeps that"):
        train(fork(parent, "deeper"))


def test_another_setting_of_the_environment_begins_its_episodes_afresh(
    parent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Episodes begun under one rule and ended under another; a setting that only the next evaluation knows of."""
    forked = Trainer.resume(fork(parent, "long", env_settings={"max_episode_steps": 5}))
    said = "metta: with another env= or env.KEY= the unfinished episodes of fork=a:2 begin afresh\n"
    assert capsys.readouterr().err == said
    assert forked.agent.env.env.settings == {"max_episode_steps": 5}
    assert forked.run_epoch()["charts/episodic_length"] == 5
    forked.close()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hidden_size": 16}, "hidden_size=16: a fork keeps what gives shape to its state, and a:2 has hidden_size=8"),
        ({"num_envs": 4}, "num_envs=4: a fork keeps what gives shape to its state, and a:2 has num_envs=2"),
        ({"env": "Pendulum-v1"}, "an agent trained on CartPole-v1[max_episode_steps=30] cannot act in Pendulum-v1: "),
        ({"fork": "b"}, "fork=b: no run b with a checkpoint in {folder}: have a"),
        ({"fork": "a:7"}, "no checkpoint for epoch=7 in {folder}/a/checkpoints: have 0, 1, 2, 3, 4"),
        ({"fork": "a:x"}, "fork=a:x: expected RUN or RUN:EPOCH, with a number"),
        ({"fork": None, "init": "no/such.pt"}, "no file {folder}/no/such.pt"),
        ({"fork": None, "init": "a:9"}, "no checkpoint for epoch=9"),
    ],
)
def test_what_cannot_be_begun_with(values: dict[str, Any], said: str, parent: Path, tmp_path: Path) -> None:
    """A traceback about tensors, or a run left behind that never began."""
    (tmp_path / "a").symlink_to(parent / "a")
    if str(values.get("init", "")).endswith(".pt"):
        values = {**values, "init": str(tmp_path / values["init"])}
    with pytest.raises(MettaError) as error:
        train(fork(tmp_path, "new", **values))
    assert str(error.value).startswith(said.format(folder=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def begun(folder: Path, run: str, **values: Any) -> Trainer:
    return Trainer.resume(TrainConfig(**{**SMALL, "hidden_size": None, "run": run, "train_dir": str(folder), **values}))


def test_init_takes_the_agent_and_nothing_else(parent: Path) -> None:
    """Fine-tuning from an optimiser's old means, or of an agent of another size than the one that was named."""
    old = TinyCheckpointManager("a", parent).load_agent(2)
    trainer = begun(parent, "tuned", init="a:2")
    assert differences(old, trainer.agent) == []
    assert (trainer.epoch, trainer.agent_steps, trainer.replica.optimizer.state_dict()["state"]) == (0, 0, {})
    assert (trainer.config.hidden_size, trainer.config.init, trainer.config.ancestry) == (8, "a:2", "init=a:2")
    trainer.run_epoch()
    trainer.save()
    trainer.close()
    begun(parent, "tuned", init="a:2").close()
    same_env = begun(parent, "same_env", env=None, init=str(parent / "a/checkpoints/agent_epoch_2.pt"), trust=True)
    assert same_env.spec.env.label == "CartPole-v1[max_episode_steps=30]"
    assert differences(old, same_env.agent) == []
    same_env.close()
    with pytest.raises(UserError, match="a trainer with init= or fork= is made by Trainer.resume"):
        Trainer(TrainConfig(run="x", env="CartPole-v1", init="a"))


def test_what_does_not_fit_is_named(parent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wider agent, or another environment, that silently begins with nothing of what was asked for."""
    old = dict(TinyCheckpointManager("a", parent).load_agent(4).named_parameters())
    trainer = begun(parent, "acrobot", env="Acrobot-v1", init="a")
    assert capsys.readouterr().err == (
        "metta: what does not fit of init=a:4 begins anew: "
        "encoder.weight1 (2x6x8), policy.weight (3x8), policy.bias (3)\n"
    )
    new = dict(trainer.agent.named_parameters())
    assert torch.equal(new["encoder.weight2"], old["encoder.weight2"])
    assert torch.equal(new["value.weight"], old["value.weight"])
    trainer.close()
    with pytest.raises(UserError, match="nothing of the agent of CartPole-v1.* fits one for"):
        begun(parent, "tokens", env="navigation", init="a", num_envs=1)


def test_from_the_command_line(parent: Path, tmp_path: Path) -> None:
    """Keys that only Python takes; mistakes answered after seconds."""
    (tmp_path / "a").symlink_to(parent / "a")
    done = command(tmp_path, "run=b", "train_dir=.", "init=a:2", "hidden_size=16", f"total_timesteps={STEPS}")
    assert done.returncode == 0
    assert done.stderr.startswith(
        "metta: what does not fit of init=a:2 begins anew: encoder.weight1 (2x4x16), encoder.weight2"
    )
    both = command(tmp_path, "run=c", "train_dir=.", "init=a", "fork=a")
    assert both.stderr == "metta train: init=a fork=a: give one; a fork has the agent too\n"
    shape = command(tmp_path, "run=c", "train_dir=.", "fork=a", "hidden_size=4")
    assert shape.returncode == 2 and "hidden_size=4: a fork keeps what gives shape" in shape.stderr
    assert not (tmp_path / "c").exists()


OWN = """
import gymnasium
import metta
from metta import TrainConfig

class Mine(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.low, {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.high, float(action), self.steps == 5, False, {}

SMALL = dict(num_envs=2, horizon=16, minibatch_size=32, hidden_size=8, display="none", device="cpu", num_workers=0)
metta.train(TrainConfig(run="whole", env=Mine, total_timesteps=32 * 4, checkpoint_interval=1, **SMALL))
metta.train(TrainConfig(run="here", fork="whole:2", display="none"))
"""


def test_an_environment_of_a_script_is_forked_too(tmp_path: Path) -> None:
    """A fork that finds no __main__:Mine, in the same script or by the command line where the script is gone."""
    (tmp_path / "own.py").write_text(OWN)
    train = [sys.executable, "-m", "metta.tools.main", "train", "display=none", "device=cpu"]
    for command_line in (
        [sys.executable, "own.py"],
        [*train, "run=there", "fork=whole:2"],
        [*train, "run=tuned", "init=whole:2", "total_timesteps=32", "num_envs=2", "horizon=16"],
    ):
        done = result_of(tmp_path, command_line)
        assert (done.returncode, done.stderr) == (0, "")
    for run in ("here", "there"):
        ends = [final(tmp_path / "train_dir", name) for name in ("whole", run)]
        for _, _, state in ends:
            assert state.pop("environment") is not None  # a class pickled anew, with other memos
        assert ends[0][0] == 4 and differences(*ends) == []
    assert TinyCheckpointManager("tuned", tmp_path / "train_dir").exists()


def test_a_run_that_begins_anew_keeps_what_decides_its_agent(parent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """hidden_size= and lstm= of the first command, lost when the second one, killed before an epoch, begins anew."""
    first = begun(parent, "anew", init="a:2", hidden_size=12, lstm=True)
    first.save()
    first.close()
    again = Trainer.resume(TrainConfig(run="anew", train_dir=str(parent), learning_rate=0.5))
    assert "begins anew with learning_rate=0.5" in capsys.readouterr().err
    assert (again.config.hidden_size, again.config.lstm, again.config.learning_rate) == (12, True, 0.5)
    assert differences(dict(first.agent.named_parameters()), dict(again.agent.named_parameters())) == []
    again.close()


def test_agent_steps_of_a_fork_follow_from_its_own_epochs(parent: Path) -> None:
    """Scores of a fork with longer epochs drawn beside those of its parent as if all its epochs had been as long."""
    assert train(fork(parent, "longer", horizon=96, total_timesteps=STEPS * 8)) == 0
    manager = TinyCheckpointManager("longer", parent)
    pace = pace_of(parent, "longer")
    assert pace is not None and pace_of(parent, "a") == (0, STEPS)
    for epoch in (manager.list_epochs()[0], manager.list_epochs()[-1]):
        assert pace.at(epoch) == manager.load_trainer_state(epoch)["agent_steps"]
    assert pace.at(2) == STEPS * 2
