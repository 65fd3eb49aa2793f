"""`train(TrainConfig(...))` is `metta train`: the same settings, the same refusals, nothing left behind."""

import importlib
import os
import random
import re
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import metta
from metta.errors import MettaError, UserError
from metta.rl.one_run import Trainer, load_trainer
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig
from metta.rl.trainer import train
from tests.helpers.commands import result_of

SMALL: dict[str, Any] = {
    "run": "r",
    "env": "CartPole-v1",
    "num_envs": 2,
    "horizon": 32,
    "minibatch_size": 64,
    "update_epochs": 1,
    "hidden_size": 8,
    "total_timesteps": 64,
    "display": "none",
    "device": "cpu",
}
AGENT = """
from metta.agent.policy_agent import PolicyAgent

class Mine(PolicyAgent):
    pass
"""


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Any]:
    return {**SMALL, "train_dir": str(tmp_path / "train_dir")}


def manager_of(values: dict[str, Any]) -> TinyCheckpointManager:
    return TinyCheckpointManager(values["run"], values["train_dir"])


def save(values: dict[str, Any], epoch: int, **config: Any) -> None:
    """A checkpoint as a run of these values has it, its saved configuration changed by `config`."""
    trainer = Trainer(TrainConfig(**values))
    for _ in range(epoch):
        trainer.run_epoch()
    state = trainer.state_dict()
    state["config"] |= config
    manager_of(values).save_checkpoint(trainer.agent, epoch, state)
    trainer.close()


def test_a_script_run_again_with_more_steps_trains_on(small: dict[str, Any]) -> None:
    """`given` defaulted to nothing: a larger total_timesteps was ignored, and 0 returned."""
    assert train(TrainConfig(**small)) == 0
    assert train(TrainConfig(**{**small, "total_timesteps": 192})) == 0
    assert manager_of(small).list_epochs() == [0, 1, 3]


def test_a_script_run_again_with_another_setting_is_refused(small: dict[str, Any]) -> None:
    """The same: another learning rate was ignored."""
    save(small, 1)
    with pytest.raises(MettaError) as error:
        train(TrainConfig(**small, learning_rate=0.5))
    assert str(error.value) == (
        "learning_rate=0.5: run r was started with learning_rate=0.0003, and keeps that to its end"
    )


def test_training_in_a_thread(small: dict[str, Any]) -> None:
    """ValueError: signal only works in main thread of the main interpreter."""
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(train(TrainConfig(**small))))
    thread.start()
    thread.join()
    assert statuses == [0]


def test_trainings_in_threads_have_the_bits_of_each_alone(small: dict[str, Any]) -> None:
    """Generators that all threads of a process share, drawn from in turns: other bits each time, without a word."""

    def begin(run: str) -> threading.Thread:
        config = TrainConfig(**{**small, "run": run, "total_timesteps": 640})
        thread = threading.Thread(target=lambda: train(config))
        thread.start()
        return thread

    begin("alone").join()
    for thread in [begin(run) for run in ("a", "b", "c")]:
        thread.join()
    alone, *others = (TinyCheckpointManager(run, small["train_dir"]).load_agent(10) for run in ("alone", "a", "b", "c"))
    for other in others:
        assert [torch.equal(*pair) for pair in zip(alone.parameters(), other.parameters(), strict=True)].count(
            False
        ) == 0


@pytest.mark.parametrize("evaluated", [True, False])
def test_an_environment_may_change_the_current_folder(
    evaluated: bool, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents checkpoints in a train_dir of the folder that the user's code went to, where no command finds them."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)

    class Wanders(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = gymnasium.spaces.Discrete(2)

        def __init__(self) -> None:
            os.chdir(elsewhere)

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
            return np.zeros(2, np.float32), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
            return np.zeros(2, np.float32), 1.0, True, False, {}

    values = {**small, "env": Wanders, "train_dir": "train_dir", "evaluate": 1 if evaluated else None}
    assert metta.train(TrainConfig(**values)) == 0
    assert list(elsewhere.iterdir()) == []
    assert TinyCheckpointManager("r", tmp_path / "train_dir").list_epochs() == [0, 1]


IMPOSSIBLE: list[dict[str, Any]] = [
    {"env": None},
    {"env": "CartPol-v1"},
    {"env_settings": {"no_such": 1}},
    {"agent": "no.py:Mine"},
    {"num_shards": 3},
    {"horizon": 10**9},
    {"run": "../r"},
]


@pytest.mark.parametrize("values", IMPOSSIBLE, ids=str)
def test_a_run_that_cannot_begin_leaves_nothing(small: dict[str, Any], values: dict[str, Any], tmp_path: Path) -> None:
    """An empty folder, that the next listing of runs trips over."""
    with pytest.raises(MettaError):
        train(TrainConfig(**{**small, **values}))
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_learned_nothing_takes_other_settings(
    small: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A first attempt with a wrong value fails after epoch 0 was saved: the run had to be deleted by hand."""
    save(small, 0, clip_coef=1e300)
    assert train(TrainConfig(**{**small, "hidden_size": 16}, clip_coef=0.1)) == 0
    assert capsys.readouterr().err == (
        "metta: run r has learned nothing yet, and begins anew with clip_coef=0.1 hidden_size=16\n"
    )
    loaded = manager_of(small).load_latest()
    assert loaded is not None and loaded[0] == 1
    assert (loaded[2]["config"]["clip_coef"], loaded[2]["config"]["hidden_size"]) == (0.1, 16)
    straight = Trainer(TrainConfig(**{**small, "hidden_size": 16}, clip_coef=0.1))
    straight.run_epoch()
    for mine, other in zip(straight.agent.parameters(), loaded[1].parameters(), strict=True):
        assert torch.equal(mine, other)
    straight.close()


def test_a_run_of_another_version_resumes(small: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback for each key that came or went since a run began."""
    save(small, 1, old=3)
    state = manager_of(small).load_trainer_state(1)
    del state["config"]["max_grad_norm"], state["config"]["vf_coef"]
    manager_of(small).save_checkpoint(manager_of(small).load_agent(1), 1, state)
    trainer = load_trainer(manager_of(small), TrainConfig(run="r", train_dir=small["train_dir"]), frozenset())
    assert trainer is not None
    assert (trainer.config.max_grad_norm, trainer.config.vf_coef) == (0.5, 0.5)
    assert asdict(trainer.config).keys() == asdict(TrainConfig(run="r")).keys()
    trainer.close()
    expected = "metta: this resume is not exact: old=3, with which run r was started, is no longer a key\n"
    assert capsys.readouterr().err == expected


def test_an_edited_agent_is_named(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The class is saved with the run: an edited forward() did nothing, and nothing said so."""
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "mine.py"
    script.write_text(AGENT)
    assert train(TrainConfig(**small, agent="mine.py:Mine")) == 0
    more = {**small, "total_timesteps": 128}
    assert train(TrainConfig(**more, agent="./mine.py:Mine")) == 0
    assert capsys.readouterr().err == ""
    script.write_text(AGENT + "    lstm = None\n")
    assert train(TrainConfig(**more, agent=f"{script}:Mine")) == 0
    assert capsys.readouterr().err == (
        f"metta: agent={script}:Mine has changed since run r began, and the run keeps its own\n"
    )


BESIDE = """
from helper import Layer

class Encoder(torch.nn.Sequential):
    output_size = 4

class Mine(PolicyAgent):
    def build_encoder(self, env, hidden_size):
        return Encoder(Layer(4, 4), helper.Layer(4, 4))
"""


def test_an_agent_travels_with_what_lies_beside_its_file(small: dict[str, Any], tmp_path: Path) -> None:
    """A checkpoint that loads in one folder only, or does another thing once a layer's own file was edited."""
    (tmp_path / "helper.py").write_text("import torch\nclass Layer(torch.nn.Linear):\n    said = 1\n")
    (tmp_path / "mine.py").write_text(f"import helper, torch\n{AGENT}{BESIDE}")
    command = [sys.executable, "-m", "metta.tools.main", "train", *(f"{name}={value}" for name, value in small.items())]
    assert result_of(tmp_path, [*command, "agent=mine.py:Mine"]).stderr == ""
    (tmp_path / "helper.py").rename(tmp_path / "gone.py")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    loads = "import torch, sys; print([layer.said for layer in torch.load(sys.argv[1], weights_only=False).encoder])"
    file = TinyCheckpointManager("r", small["train_dir"]).file("agent", 1)
    assert result_of(elsewhere, [sys.executable, "-c", loads, str(file)]).stdout == "[1, 1]\n"
    (tmp_path / "helper.py").write_text("import torch\nclass Layer(torch.nn.Linear):\n    said = 2\n")
    more = result_of(tmp_path, [word.replace("timesteps=64", "timesteps=128") for word in command])
    said = f"metta: agent={tmp_path}/mine.py:Mine has changed since run r began, and the run keeps its own\n"
    assert (more.returncode, more.stderr) == (0, said)
    file = TinyCheckpointManager("r", small["train_dir"]).file("agent", 2)
    assert result_of(elsewhere, [sys.executable, "-c", loads, str(file)]).stdout == "[1, 1]\n"


def test_an_agent_that_checkpoints_have_by_name_is_compared(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The class of an imported module, edited meanwhile: the run went on with the other one, and nothing said so."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "by_name.py"
    file.write_text(AGENT)
    assert train(TrainConfig(**small, agent=importlib.import_module("by_name").Mine)) == 0
    file.write_text(AGENT + "# edited\n")
    assert train(TrainConfig(**{**small, "total_timesteps": 128})) == 0
    assert "metta: this resume is not exact: code of by_name.py:Mine " in capsys.readouterr().err


def test_the_public_one_asks_the_scores_too(tmp_path: Path) -> None:
    """keep_last= that deletes the best from a script, where the command line keeps it."""
    assert metta.train(TrainConfig(**SMALL, train_dir=str(tmp_path))) == 0
    manager = TinyCheckpointManager("r", tmp_path)
    assert manager.list_epochs() == [0, 1]
    with metta.PolicyEvaluator(tmp_path) as evaluator:
        evaluator.evaluate("r", 1, episodes=2)
    longer: dict[str, Any] = SMALL | {"total_timesteps": 64 * 4, "checkpoint_interval": 1, "keep_last": 1}
    assert metta.train(TrainConfig(**longer, train_dir=str(tmp_path))) == 0
    assert manager.list_epochs() == [1, 4]


def test_what_is_no_configuration_is_refused() -> None:
    """An AttributeError of ours for a dict of keys."""
    with pytest.raises(UserError, match=r"^train takes a metta.TrainConfig, not a dict$"):
        metta.train({"run": "r", "env": "CartPole-v1"})  # type: ignore[arg-type]


def script_class(reward: float, length: int = 3) -> type[gymnasium.Env]:
    """An environment of a script that calls it Walk, as if the script were this one."""

    class Walk(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.left = length
            return np.zeros(1, np.float32), {}

        def step(self, action: Any) -> Any:
            self.left -= 1
            return np.zeros(1, np.float32), reward, self.left == 0, False, {}

    return Walk


def test_what_a_function_made_is_itself(small: dict[str, Any]) -> None:
    """Two environments that one function made of other numbers, and both runs trained on the last."""
    envs = [script_class(1.0), script_class(2.0), lambda: script_class(3.0)(), script_class(1.0)]
    configs = [TrainConfig(**{**small, "run": f"r{n}", "env": env}) for n, env in enumerate(envs)]
    assert len({config.env for config in configs}) == 3 and configs[0].env == configs[3].env
    assert "script_class_Walk_" in str(configs[0].env)
    for config in configs:
        assert train(config) == 0
    with metta.PolicyEvaluator(small["train_dir"]) as evaluator:
        scores = [evaluator.evaluate(f"r{n}", 1, episodes=2).mean for n in range(4)]
    assert scores == [3.0, 6.0, 9.0, 3.0]


def test_a_run_s_own_class_takes_no_other_s_place(small: dict[str, Any]) -> None:
    """An older run that is evaluated, and the class of the same name that a script defines now is that run's from then
    on."""
    old, new = script_class(1.0), script_class(5.0)
    for cls in (old, new):
        cls.__qualname__, cls.__module__ = "Walk", "__main__"
    assert train(TrainConfig(**{**small, "run": "old", "env": old})) == 0
    config = TrainConfig(**{**small, "run": "new", "env": new})
    assert config.env == "__main__:Walk"
    with metta.PolicyEvaluator(small["train_dir"]) as evaluator:
        assert evaluator.evaluate("old", 1, episodes=2).mean == 3.0
        assert train(replace(config, total_timesteps=128)) == 0
        assert evaluator.evaluate("new", 2, episodes=2).mean == 15.0
        assert evaluator.evaluate("old", 1, episodes=2).mean == 3.0


SCRIPT = """
import gymnasium, metta, sys, torch

class Env(gymnasium.Wrapper):
    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))

    def step(self, action):
        observation, reward, *others = super().step(action)
        return observation, reward * 1.0 if "terminated" not in {"a", "b", "c"} else 0.0, *others

class Mine(metta.PolicyAgent):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)

keys = dict(num_envs=2, horizon=32, minibatch_size=64, update_epochs=1, num_workers=0, display="none")
metta.train(metta.TrainConfig(run="r", env=Env, agent=Mine, total_timesteps=int(sys.argv[1]), **keys))
"""


def test_what_a_script_changed_is_named(tmp_path: Path) -> None:
    """A class that was edited in the script, where a file's is named: an environment of other rules, an agent's forward
    that does nothing."""
    script = tmp_path / "script.py"
    other_rules = SCRIPT.replace("* 1.0", "* 2.0")
    other_agent = other_rules.replace("return super().forward", "args += ()\n        return super().forward")
    env = r"(metta: .* did not reproduce .*\n)?metta: this resume is not exact: code of __main__:Env \w+ -> \w+\n"
    agent = r"metta: agent=__main__:Mine has changed since run r began, and the run keeps its own\n"
    for steps, text, said in [(64, SCRIPT, ""), (128, SCRIPT, ""), (192, other_rules, env), (256, other_agent, agent)]:
        script.write_text(text)
        done = result_of(tmp_path, [sys.executable, str(script), str(steps)])
        assert re.fullmatch(said, done.stderr) and done.returncode == 0, done.stderr


def test_training_leaves_chance_to_others(small: dict[str, Any]) -> None:
    """A random search that draws the same settings for every run."""
    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(0)
    assert train(TrainConfig(**small)) == 0
    drawn = random.random(), np.random.rand(), float(torch.rand(()))
    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(0)
    assert drawn == (random.random(), np.random.rand(), float(torch.rand(())))


def test_what_is_no_run_or_function_is_one_line(small: dict[str, Any]) -> None:
    """Prevents an AttributeError for Trainer.resume({...}), and for a list of functions as on_epoch."""
    wrong: Any = {"run": "r"}
    with pytest.raises(UserError, match="^run={'run': 'r'}: not text$"):
        Trainer.resume(wrong)
    wrong = [print]
    with pytest.raises(UserError, match="^on_epoch=.*: not a function, nor the place of one$"):
        metta.train(TrainConfig(**small), on_epoch=wrong)
    assert not Path(small["train_dir"]).exists()
