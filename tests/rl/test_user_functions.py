"""A loss and an optimiser of the user's own: as exact as ours, in every process, and one line where they fail."""

import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from metta.agent.policy_agent import PolicyAgent
from metta.errors import MettaError, UserError
from metta.rl.learning.ppo import ppo_loss
from metta.rl.one_run import Trainer
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig
from metta.rl.trainer import train
from tests.helpers.commands import result_of
from tests.helpers.exact import differences
from tests.helpers.small_envs import ONE_STEP
from tests.rl.test_on_epoch import STEPS, command, config, final

OWN = """
import torch

def reinforce(distribution, params, values, batch, config):
    log_probs, entropy = distribution.score(params, batch.actions)
    loss = -(log_probs * batch.advantages).mean() + config.vf_coef * (values - batch.returns).square().mean()
    return loss, {"entropy": entropy.mean()}

class Noisy(torch.optim.SGD):
    steps = 0

    def step(self, closure=None):
        super().step(closure)
        self.steps += 1  # in no state_dict
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data += 1e-4 * self.steps**0.5 * torch.randn_like(parameter)

def noisy(parameters, lr):
    return Noisy([{"params": parameters[:2], "lr": 3 * lr}, {"params": parameters[2:]}], lr=lr, momentum=0.9)
"""


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(("loss=own.py:reinforce",), marks=pytest.mark.slow),
        ("optimizer=own:noisy", "loss=own.py:reinforce"),
    ],
)
def test_from_a_file(keys: tuple[str, ...], tmp_path: Path) -> None:
    """Bits that depend on the number of processes, or that a resume in a new process does not find again."""
    (tmp_path / "own.py").write_text(OWN)
    shards = ("train_dir=.", "num_shards=2", "anneal_lr=false")
    whole = command(tmp_path, "run=whole", *shards, "num_workers=0", f"total_timesteps={STEPS * 3}", *keys)
    assert (whole.returncode, whole.stderr) == (0, "")
    for epochs in (1, 3):
        half = command(tmp_path, "run=halves", *shards, "num_workers=1", f"total_timesteps={STEPS * epochs}", *keys)
        assert (half.returncode, half.stderr) == (0, "")
    straight = final(tmp_path, "whole")
    assert differences(straight, final(tmp_path, "halves")) == []
    rates = [group["lr"] for group in straight[2]["optimizer"]["param_groups"]]
    assert len(rates) == 1 or rates[0] == pytest.approx(3 * rates[1])


ENV = f"""{ONE_STEP}
def noted(trainer, scalars):
    pass
"""


@pytest.mark.parametrize("edited", ["env.py", "rules/__init__.py", "rules/reward.py", "late.py"])
def test_an_environment_that_changed_is_named(edited: str, tmp_path: Path) -> None:
    """Rewards of another rule from one epoch to the next, whose unfinished episodes happen to come out alike.

    In the file that was named, or in what it imports from beside it, at its head or in a function.
    """
    files = {
        "env.py": f"from rules.reward import REWARD\n{ENV}    if trainer is None:\n        import late\n",
        "rules/__init__.py": "",
        "rules/reward.py": "import json, metta\nREWARD = 1.0\n",
        "late.py": "import env, nowhere\n",
        "no_part_of_it.py": "",
    }
    (tmp_path / "rules").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    small = ("num_envs=2", "horizon=32", "display=none", "train_dir=.")
    train = [sys.executable, "-m", "metta.tools.main", "train", "run=r"]
    begun = result_of(tmp_path, [*train, "env=env.py:Env", "on_epoch=env.py:noted", "total_timesteps=64", *small])
    assert (begun.returncode, begun.stderr) == (0, "")
    (tmp_path / "no_part_of_it.py").write_text("# edited")
    untouched = result_of(tmp_path, [*train, "total_timesteps=128", *small[2:]])
    assert (untouched.returncode, untouched.stderr) == (0, "")
    (tmp_path / edited).write_text(files[edited] + "# edited\n")
    changed = result_of(tmp_path, [*train, "total_timesteps=192", *small[2:]])
    assert changed.returncode == 0
    assert re.search("this resume is not exact: code of env.py:Env .*, code of env.py:noted ", changed.stderr)


def test_code_that_changed_is_named(tmp_path: Path) -> None:
    """Another loss that goes on as if it were the same."""
    (tmp_path / "own.py").write_text(OWN)
    keys = ("train_dir=.", "loss=own.py:reinforce", "optimizer=own.py:noisy")
    command(tmp_path, "run=r", *keys, f"total_timesteps={STEPS}")
    (tmp_path / "own.py").write_text(OWN + "# edited\n")
    edited = command(tmp_path, "run=r", "train_dir=.", f"total_timesteps={STEPS * 2}")
    assert edited.returncode == 0
    assert "metta: this resume is not exact: code of own.py:reinforce " in edited.stderr


MOVED = f"""{OWN}
from gymnasium.wrappers import TransformReward

def twice(env):
    return TransformReward(env, lambda reward: 2 * reward)

def less(env):
    return TransformReward(env, lambda reward: reward - 1)
"""


def test_a_run_goes_on_with_files_that_have_moved(tmp_path: Path) -> None:
    """A run lost with a renamed folder, for want of its loss, optimiser or wrappers; or another's taken for them."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old/own.py").write_text(MOVED)
    code = "loss=old/own.py:reinforce", "optimizer=old/own.py:noisy", "env.wrappers=old/own.py:twice,old/own.py:less"
    keys = ("train_dir=.", "anneal_lr=false", *code)
    for run, epochs in (("whole", 3), ("halves", 1)):
        done = command(tmp_path, f"run={run}", f"total_timesteps={STEPS * epochs}", *keys)
        assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "old").rename(tmp_path / "new")
    more, moved = ("run=halves", f"total_timesteps={STEPS * 3}"), [key.replace("old/", "new/") for key in keys]
    for given, lost in ((keys[:1], "loss"), (moved[:-1], "env.wrappers")):
        done = command(tmp_path, *more, *given)
        file, hint = f"{tmp_path}/old/own.py", f"where it has moved, give {lost}=new/place/own.py:"
        assert re.fullmatch(f"metta train: {lost}={file}:(\\w+): no file {file}; {hint}\\1\n", done.stderr)
    for other in ("twice", "less,new/own.py:twice", "twice,new/own.py:noisy"):
        done = command(tmp_path, *more, *moved[:-1], f"env.wrappers=new/own.py:{other}")
        assert (done.returncode, "and keeps that to its end" in done.stderr) == (2, True)
    done = command(tmp_path, *more, *moved)
    assert (done.returncode, done.stderr) == (0, "")
    assert differences(final(tmp_path, "whole"), final(tmp_path, "halves")) == []
    done = command(tmp_path, "run=halves", "train_dir=.", f"total_timesteps={STEPS * 4}")
    assert (done.returncode, done.stderr) == (0, "")  # it remembers


def test_ppo_s_own_loss_and_adam_given_as_functions_change_nothing_but_speed(tmp_path: Path) -> None:
    """A loss that is called with other arguments than ours is, or an optimiser whose rate nobody sets."""
    given: dict[str, Any] = {
        "loss": ppo_loss,
        "optimizer": lambda parameters, lr: torch.optim.Adam(parameters, lr, eps=1e-5),
    }
    ours, theirs = Trainer(config(tmp_path)), Trainer(config(tmp_path, **given))
    for _ in range(3):
        mine, own = ours.run_epoch(), theirs.run_epoch()
    assert mine["losses/policy_loss"] == pytest.approx(own["losses/policy_loss"], abs=1e-5)
    for one, other in zip(ours.agent.parameters(), theirs.agent.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    ours.close()
    theirs.close()


SCRIPT = """
import sys
from metta import TrainConfig, train

def loss(distribution, params, values, batch, config):
    log_probs, entropy = distribution.score(params, batch.actions)
    return -(log_probs * batch.advantages).mean() + (values - batch.returns).square().mean() - FACTOR * entropy.mean()

FACTOR = 0.01
run, workers, epochs = sys.argv[1:]
train(TrainConfig(run=run, env="CartPole-v1", num_envs=2, horizon=32, hidden_size=8, num_shards=2, anneal_lr=False,
    num_workers=int(workers), total_timesteps=64 * int(epochs), checkpoint_interval=1, display="none", device="cpu",
    loss=loss, train_dir="."))
"""


def test_from_a_script(tmp_path: Path) -> None:
    """A function that only its script has: lost to worker processes, and to the command line's resume."""
    (tmp_path / "script.py").write_text(SCRIPT)
    for run, workers, epochs in (("whole", "0", "3"), ("halves", "1", "1"), ("halves", "1", "2")):
        command_line = [sys.executable, "script.py", run, workers, epochs]
        done = result_of(tmp_path, command_line)
        assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "script.py").unlink()
    resumed = [sys.executable, "-m", "metta.tools.main", "train", "run=halves", "train_dir=.", "total_timesteps=192"]
    done = result_of(tmp_path, resumed)
    assert (done.returncode, done.stderr) == (0, "")
    assert differences(final(tmp_path, "whole"), final(tmp_path, "halves")) == []


def no_gradient(distribution: Any, params: Any, values: Any, batch: Any, config: Any) -> float:
    return 3.0


def unknown(distribution: Any, params: Any, values: Any, batch: Any, config: Any) -> Any:
    return values.mean(), {"mine": 3}


def silent(distribution: Any, params: Any, values: Any, batch: Any, config: Any) -> Any:
    return values.mean()


def fails(distribution: Any, params: Any, values: Any, batch: Any, config: Any) -> Any:
    return values.mean() / batch.no_such


def needs_closure(parameters: Any, lr: float) -> Any:
    return torch.optim.LBFGS(parameters, lr)


def no_optimizer(parameters: Any, lr: float) -> Any:
    return parameters


def one_argument(parameters: Any) -> Any:
    return None


class Forgetful(PolicyAgent):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise KeyError("key")


class Unmade(PolicyAgent):
    def build_encoder(self, env: Any, hidden_size: Any, **options: Any) -> Any:
        return torch.nn.Linear(env.observation_shape[1], 8)


class Adds(PolicyAgent):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.value.weight = torch.nn.Parameter(self.value.weight.detach().clone())
        return super().forward(*args, **kwargs)


class Mapped(PolicyAgent):
    def initial_state(self, batch_size: int) -> Any:
        return {"h": torch.zeros(batch_size, 2)}


class LayersFirst(PolicyAgent):
    def initial_state(self, batch_size: int) -> Any:
        return (torch.zeros(2, batch_size, 4),)


class Strict(PolicyAgent):
    """Of one number of memory, which takes for granted that it is told where episodes begin."""

    def initial_state(self, batch_size: int) -> Any:
        return (torch.zeros(batch_size, 1),)

    def forward(self, observations: Any, state: Any, starts: Any) -> Any:  # type: ignore[override]
        params, values, _ = super().forward(observations)
        return params, values, (state[0] * (~starts[-1:].reshape(-1, 1)[: len(state[0])]),)


def test_an_agent_is_always_told_where_episodes_begin(tmp_path: Path) -> None:
    """A TypeError at the first time-out, hours into training."""
    assert train(config(tmp_path, agent=Strict, env_settings={"max_episode_steps": 5})) == 0


def test_target_kl_needs_what_it_is_compared_with(tmp_path: Path) -> None:
    """An update that never ends early, for the loss does not say how far it went."""
    with pytest.raises(UserError, match="returned no approx_kl to show, by which target_kl= ends an update"):
        train(config(tmp_path, loss=silent, target_kl=0.01))


class Headless(PolicyAgent):
    def __init__(self, env: Any, hidden_size: int):
        self.env = env


class Holds(PolicyAgent):
    def __init__(self, env: Any, hidden_size: int):
        super().__init__(env, hidden_size)
        self.library = sys


class Locks(PolicyAgent):
    def __init__(self, env: Any, hidden_size: int):
        super().__init__(env, hidden_size)
        vars(self.value)["turn"] = threading.Lock()


class Lazy(PolicyAgent):
    def build_encoder(self, env: Any, hidden_size: Any, **options: Any) -> Any:
        encoder: Any = torch.nn.Sequential(torch.nn.LazyLinear(8), torch.nn.Tanh())
        encoder.output_size = 8
        return encoder


def test_a_lazy_agent_trains(tmp_path: Path) -> None:
    """A traceback over parameters that have no shape before the first forward, which PyTorch's users expect to do."""
    assert train(config(tmp_path, epochs=1, agent=Lazy)) == 0
    assert len(final(tmp_path, "r")[1].encoder[0].weight[0]) == 4


@pytest.mark.parametrize(
    ("key", "function", "said"),
    [
        ("loss", no_gradient, r"loss=.*: returned float; wanted a tensor \[\] that has a gradient"),
        ("loss", unknown, "loss=.*: returned mine to show; wanted a dict of policy_loss, value_loss, entropy, "),
        ("loss", fails, "loss=.*:fails failed: AttributeError: 'Batch' object has no attribute 'no_such' "),
        ("loss", one_argument, r"takes \(parameters.*\) -> .*, and it is called with \(distribution, params, values, "),
        ("optimizer", needs_closure, "optimizer=.* failed: TypeError: .*closure"),
        ("optimizer", no_optimizer, "optimizer=.*: returned list, not a torch.optim.Optimizer"),
        ("optimizer", 3, "optimizer=3: not a function, nor the place of one"),
        ("agent", 3, "agent=3: not a class, nor the place of one"),
        ("agent", Adds, "Adds's forward makes or replaces parameters: make them in __init__$"),
        ("agent", Mapped, "agent=.*: initial_state returned a dict; wanted a tuple of tensors "),
        (
            "agent",
            LayersFirst,
            r"agent=.*: initial_state\(3\) has \[2, 3, 4\]; wanted a tuple of tensors \[",
        ),
        ("agent", Headless, r"agent=.*: its __init__ does not call super\(\).__init__\(env\)$"),
        ("agent", Holds, "agent=.*:Holds failed: TypeError: cannot pickle .*; nothing is saved: the same command"),
        (
            "agent",
            Locks,
            "agent=.*: no file can keep its attribute value.turn: TypeError: cannot pickle '_thread.lock'",
        ),
        (
            "agent",
            Forgetful,
            r"agent=.*:Forgetful failed: KeyError: 'key' \(test_user_functions.py:\d+\)$",
        ),
        (
            "agent",
            Unmade,
            r"agent=.*:Unmade failed: IndexError: .* \(test_user_functions.py:\d+\)$",
        ),
    ],
)
def test_what_is_wrong_is_one_line(key: str, function: Any, said: str, tmp_path: Path) -> None:
    """A traceback through ours for a mistake in theirs."""
    with pytest.raises(MettaError, match=said) as error:
        train(config(tmp_path, **{key: function}))
    assert "\n" not in str(error.value)


def test_a_fork_may_change_the_loss_and_not_the_optimiser(tmp_path: Path) -> None:
    """An optimiser that is given another one's state."""
    assert train(config(tmp_path, epochs=1)) == 0
    more: dict[str, Any] = {"train_dir": str(tmp_path), "fork": "r", "total_timesteps": STEPS * 2, "display": "none"}
    assert train(TrainConfig(run="loss", loss=ppo_loss, **more)) == 0
    assert TinyCheckpointManager("loss", tmp_path).list_epochs() == [1, 2]
    with pytest.raises(UserError, match="a fork keeps what gives shape to its state, and r has optimizer=None"):
        train(TrainConfig(run="optimizer", optimizer=needs_closure, **more))
