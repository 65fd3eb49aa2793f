"""The user's function after each epoch: what it may do, and what becomes of what it does wrong."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from metta.agent.policy_agent import PolicyAgent
from metta.errors import UserCodeError, UserError
from metta.rl.learning.user_functions import EpochCallback
from metta.rl.one_run import Trainer
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig
from metta.rl.trainer import train
from tests.helpers.commands import result_of
from tests.helpers.exact import curves, differences

STEPS = 64
SMALL: dict[str, Any] = {
    "env": "CartPole-v1",
    "num_envs": 2,
    "horizon": STEPS // 2,
    "minibatch_size": 64,
    "update_epochs": 2,
    "hidden_size": 8,
    "checkpoint_interval": 1,
    "display": "none",
    "device": "cpu",
}


def config(folder: Path, run: str = "r", epochs: int = 4, **values: Any) -> TrainConfig:
    return TrainConfig(**{**SMALL, "run": run, "train_dir": str(folder), "total_timesteps": STEPS * epochs, **values})


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`metta train` in the folder, of the small run."""
    given = {name.partition("=")[0] for name in arguments}
    words = [f"{name}={value}" for name, value in SMALL.items() if name not in given]
    full = [sys.executable, "-m", "metta.tools.main", "train", *words, *arguments]
    return result_of(folder, full)


def final(folder: Path, run: str = "r") -> Any:
    """Epoch, agent and trainer state of the newest checkpoint, without the configuration."""
    loaded = TinyCheckpointManager(run, folder).load_latest()
    assert loaded is not None
    del loaded[2]["config"]
    return loaded


def test_it_adds_curves_and_ends_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No early stop, and no curve of one's own, without a loop of one's own that loses saving and resuming."""
    seen = []

    def watch(trainer: Trainer, scalars: dict[str, float]) -> bool:
        seen.append((trainer.epoch, trainer.agent_steps))
        scalars["mine/double"] = torch.tensor(2.0 * trainer.epoch)  # type: ignore[assignment]
        return trainer.epoch == 3

    assert train(config(tmp_path, epochs=9, display="plain", checkpoint_interval=10), on_epoch=watch) == 0
    assert seen == [(epoch, STEPS * epoch) for epoch in (1, 2, 3)]
    assert TinyCheckpointManager("r", tmp_path).list_epochs() == [0, 3]
    assert curves(tmp_path / "r")["mine/double"] == [(STEPS * epoch, 2.0 * epoch) for epoch in (1, 2, 3)]
    said = capfd.readouterr().err
    assert " mine/double=6 " in said
    assert f"stopped by on_epoch and saved; the same command goes on: epoch 3, {STEPS * 3} agent steps" in said


def test_on_the_command_line(tmp_path: Path) -> None:
    """A function that only Python can give; one that a resume forgets, or cannot be told to leave out."""
    (tmp_path / "own.py").write_text(
        "def f(trainer, scalars):\n    print(trainer.epoch)\n    return trainer.epoch == 2\n"
    )
    arguments = ("train_dir=.", f"total_timesteps={STEPS * 4}")
    for run, place in (("run=r", "own.py:f"), ("run=module", "own:f")):
        done = command(tmp_path, *arguments, run, f"on_epoch={place}")
        assert (done.returncode, done.stdout, done.stderr) == (0, "1\n2\n", "")
    resumed = command(tmp_path, *arguments, "run=r")
    assert (resumed.returncode, resumed.stdout) == (0, "3\n4\n")
    (tmp_path / "own.py").unlink()
    more = ("run=r", "train_dir=.", f"total_timesteps={STEPS * 5}")
    lost = command(tmp_path, *more)
    moved = "where it has moved, give on_epoch=new/place/own.py:f"
    said = f"metta train: on_epoch={tmp_path}/own.py:f: no file {tmp_path}/own.py; {moved}\n"
    assert (lost.returncode, lost.stderr) == (2, said)
    without = command(tmp_path, *more, "on_epoch=None")
    assert (without.returncode, without.stdout) == (0, "")


def test_one_that_raises_loses_nothing(tmp_path: Path) -> None:
    """Epochs lost to a mistake in what only watches; a traceback of ours around it."""
    (tmp_path / "own.py").write_text("def f(trainer, scalars):\n    if trainer.epoch == 3:\n        {}['key']\n")
    done = command(
        tmp_path, "run=r", "train_dir=.", "checkpoint_interval=10", "total_timesteps=1000", "on_epoch=own.py:f"
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"metta train: on_epoch={tmp_path}/own.py:f raised KeyError: 'key' (own.py:3); "
        "epoch 3 is saved: the same command goes on from there\n"
    )
    assert TinyCheckpointManager("r", tmp_path).list_epochs() == [0, 3]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda trainer, scalars: scalars.update(a="text"), "raised ValueError: could not convert string to float"),
        (lambda trainer, scalars: sys.exit(3), r"raised SystemExit: 3 \(test_on_epoch.py:\d+\)"),
        (lambda trainer, scalars: setattr(trainer, "learning_rate", -1), "raised learning_rate=-1: must be 0 or more"),
    ],
)
def test_what_it_may_not_do(function: Any, said: str, tmp_path: Path) -> None:
    """A curve that silently ends, and a run left without a save by an exit."""
    with pytest.raises(UserCodeError, match=rf"on_epoch=\S*test_on_epoch:<lambda> {said}"):
        train(config(tmp_path, checkpoint_interval=10), on_epoch=function)
    assert TinyCheckpointManager("r", tmp_path).list_epochs() == [0, 1]


async def never_awaited(trainer: Any, scalars: dict[str, float]) -> None:
    pass


def test_what_cannot_be_called_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """An hour of training, and then a TypeError."""
    with pytest.raises(UserError, match=r"takes \(trainer\), and it is called with \(trainer, scalars\)$"):
        train(config(tmp_path), on_epoch=lambda trainer: None)  # type: ignore[misc,arg-type]
    with pytest.raises(UserError, match="an async function or a generator, which does nothing when called$"):
        train(config(tmp_path), on_epoch=never_awaited)
    with pytest.raises(UserError, match="^on_epoch=math:pi: math:pi is a float, not a function$"):
        EpochCallback("math:pi")
    assert list(tmp_path.iterdir()) == []


def halve(trainer: Any, scalars: dict[str, float]) -> None:
    trainer.learning_rate = 3e-3 * 0.5**trainer.epoch


def halve_in_the_optimizer(trainer: Any, scalars: dict[str, float]) -> None:
    trainer.replica.optimizer.param_groups[0]["lr"] = 3e-3 * 0.5**trainer.epoch


def perturb(trainer: Any, scalars: dict[str, float]) -> None:
    """Shrinks the agent and forgets Adam's means, as the cures of plasticity loss do; every way to write."""
    parameters = list(trainer.agent.parameters())
    parameters[0].data.mul_(0.5)
    with torch.no_grad():
        parameters[-1].add_(0.25)
    if trainer.epoch % 2:
        trainer.replica.optimizer.state.clear()
        trainer.replica.optimizer.param_groups[0]["betas"] = (0.5, 0.9)


def freeze(trainer: Any, scalars: dict[str, float]) -> None:
    """Fine-tuning's: a part learns no more, another no longer drops out, and forward reads a number of the agent's."""
    trainer.agent.encoder.requires_grad_(trainer.epoch < 2)
    trainer.agent.drop.train(trainer.epoch < 3)
    trainer.agent.temperature = 1.0 + trainer.epoch


class Warm(PolicyAgent):
    temperature = 1.0

    def __init__(self, env: Any, hidden_size: int):
        super().__init__(env, hidden_size)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        params, values, state = super().forward(*args, **kwargs)
        return self.drop(params) / self.temperature, values, state


def frozen_at_first(parameters: Any, lr: float) -> Any:
    return torch.optim.Adam([{"params": parameters[:2], "lr": 0.0}, {"params": parameters[2:]}], lr=lr)


def thaw(trainer: Any, scalars: dict[str, float]) -> None:
    """One group begins to learn, and another ends; that of the others is annealed as before."""
    first, second = trainer.replica.optimizer.param_groups
    first["lr"] = 1e-3 if trainer.epoch >= 2 else 0.0
    second["lr"] = 0.0 if trainer.epoch >= 3 else second["lr"]


def test_a_group_of_parameters_has_a_rate_of_its_own(tmp_path: Path) -> None:
    """A second group whose rate nobody can set, and a first one that sets everybody's."""
    moved = []

    def watch(trainer: Trainer, scalars: dict[str, float]) -> None:
        thaw(trainer, scalars)
        moved.append([parameter.detach().clone() for parameter in trainer.agent.parameters()])

    assert train(config(tmp_path, optimizer=frozen_at_first), on_epoch=watch) == 0
    changed = [[not torch.equal(a, b) for a, b in zip(*pair, strict=True)] for pair in pairwise(moved)]
    assert [(any(row[:2]), any(row[2:])) for row in changed] == [(False, True), (True, True), (True, False)]


def with_a_schedule(parameters: Any, lr: float) -> Any:
    optimizer = torch.optim.Adam(parameters, lr)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))
    return optimizer


def test_a_schedule_that_nobody_steps_is_none(tmp_path: Path) -> None:
    """A warm-up that begins with 0, and stays there: nothing is ever learned."""
    assert train(config(tmp_path, epochs=1, optimizer=with_a_schedule)) == 0
    first, last = (TinyCheckpointManager("r", tmp_path).load_agent(epoch) for epoch in (0, 1))
    assert differences(dict(first.named_parameters()), dict(last.named_parameters())) != []


@pytest.mark.parametrize("function", [halve, halve_in_the_optimizer, perturb, freeze, thaw])
def test_what_it_changes_is_resumed_and_reaches_every_process(function: Any, tmp_path: Path) -> None:
    """A schedule that a resume forgets; parameters changed in one process, and trained on in two."""
    constant: dict[str, Any] = {"num_shards": 2, "anneal_lr": False, "learning_rate": 5e-4}
    constant |= {"agent": Warm} if function is freeze else {"optimizer": frozen_at_first} if function is thaw else {}
    assert train(config(tmp_path, "whole", **constant, num_workers=0), function) == 0
    for epochs in (2, 4):
        assert train(config(tmp_path, "halves", epochs, **constant, num_workers=1), function) == 0
    assert differences(final(tmp_path, "whole"), final(tmp_path, "halves")) == []
    if function in (halve, halve_in_the_optimizer):
        rates = [rate for _, rate in curves(tmp_path / "whole")["charts/learning_rate"]]
        assert rates == pytest.approx([5e-4, 3e-3 / 2, 3e-3 / 4, 3e-3 / 8])


def test_parameters_that_are_replaced_are_refused(tmp_path: Path) -> None:
    """A head that acts, and that no optimiser trains."""

    def replace(trainer: Trainer, scalars: dict[str, float]) -> None:
        trainer.agent.policy = torch.nn.Linear(8, 2)

    with pytest.raises(UserError, match="^the agent's parameters were replaced by others: change them in place"):
        train(config(tmp_path), on_epoch=replace)


def test_a_loop_of_ones_own_saves_and_resumes(tmp_path: Path) -> None:
    """A loop that must build saving and resuming anew, and goes on with other bits."""
    assert train(config(tmp_path, "whole")) == 0
    for _ in range(2):
        trainer = Trainer.resume(config(tmp_path, "halves"))
        for _ in range(2):
            scalars = trainer.run_epoch()
        trainer.save()
        trainer.close()
    assert scalars["charts/learning_rate"] > 0
    assert differences(final(tmp_path, "whole"), final(tmp_path, "halves")) == []
    complete = Trainer.resume(config(tmp_path, "halves"))
    assert complete.complete and complete.run_epoch()["charts/learning_rate"] == 0  # and no less, to climb the loss
    with pytest.raises(UserError, match="env= is needed for a new run: other has no checkpoint"):
        Trainer.resume("other")
