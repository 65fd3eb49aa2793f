"""`import metta`: what is public, with its signatures, and what loading it costs."""

import inspect
import re
import subprocess
import sys
from typing import Any

import pytest

import metta
from tests.helpers.commands import ROOT

NEED_NO_TORCH = [
    "EvalDB",
    "TinyCheckpointManager",
    "TrainConfig",
    "load_latest_agent",
    "run_exists",
    "save_checkpoint",
    "train",
]
# Without annotations. The fields of TrainConfig are in tests/tools/test_options.py.
SIGNATURES = """
    EvalDB(where, train_dir=None)
    EvalDB.agents(self, run, epoch)
    EvalDB.best_epoch(self, run, env=None, sampled=None)
    EvalDB.check_writable(self)
    EvalDB.copy_to(self, other, runs=None)
    EvalDB.episodes(self, run, epoch, env, sampled=False)
    EvalDB.get_metrics(self, run, epoch=None, env=None, agent_group='all', sampled=False)
    EvalDB.get_scores(self, run, epoch=None, env=None, agent_group='all', sampled=False)
    EvalDB.latest_score(self, run)
    EvalDB.record(self, run, epoch, env, rows, agent_crc, sampled=False, anew=False)
    EvalDB.rename_run(self, run, new_name)
    EvalDB.runs(self)
    EvalDB.table(self, runs=None)
    PolicyAgent(env, hidden_size=None, lstm=False, **options)
    PolicyAgent.act(self, observations, state=(), starts=None, deterministic=False, noise=None)
    PolicyAgent.build_encoder(self, env, hidden_size, **options)
    PolicyAgent.choose(self, params, deterministic=False, noise=None)
    PolicyAgent.forward(self, observations, state=(), starts=None)
    PolicyAgent.initial_state(self, batch_size)
    PolicyAgent.update_normalizers(self, *observations, gather=None)
    PolicyEvaluator(train_dir='./train_dir', device='cpu', num_envs=None, num_workers=None, eval_db=None, executor=None)
    PolicyEvaluator.begin(self, loaded, env=None, episodes=100, seed=0, sampled=False)
    PolicyEvaluator.close(self)
    PolicyEvaluator.evaluate(self, run, epoch, env=None, episodes=100, seed=0, sampled=False)
    PolicyEvaluator.evaluate_random(self, env, episodes=100, seed=0)
    PolicyEvaluator.load(self, run, epoch)
    PolicyEvaluator.load_file(self, path, trust=False, run=None, epoch=0)
    PolicyEvaluator.score(self, loaded, env=None, episodes=100, seed=0, sampled=False)
    TinyCheckpointManager(run, train_dir='./train_dir')
    TinyCheckpointManager.exists(self)
    TinyCheckpointManager.file(self, kind, epoch, must_exist=False)
    TinyCheckpointManager.list_epochs(self)
    TinyCheckpointManager.load_agent(self, epoch, map_location='cpu')
    TinyCheckpointManager.load_latest(self, map_location='cpu')
    TinyCheckpointManager.load_latest_agent(self, map_location='cpu')
    TinyCheckpointManager.load_trainer_state(self, epoch, map_location='cpu')
    TinyCheckpointManager.save_checkpoint(self, agent, epoch, trainer_state)
    Trainer(typed, agent=None)
    Trainer.close(self)
    Trainer.load_state_dict(self, state, go_on=True)
    Trainer.run_epoch(self)
    Trainer.save(self)
    Trainer.settle(self)
    Trainer.state_dict(self)
    load_latest_agent(run, train_dir='./train_dir')
    run_exists(run, train_dir='./train_dir')
    save_checkpoint(agent, run, epoch, trainer_state, train_dir='./train_dir')
    train(config, on_epoch=None)
"""


def signature(function: Any) -> str:
    found = inspect.signature(function)
    plain = [one.replace(annotation=one.empty) for one in found.parameters.values()]
    text = str(found.replace(parameters=plain, return_annotation=found.empty))
    return re.sub(r"<function (\S+) at 0x\w+>", r"\1", text)


def signatures() -> list[str]:
    found = []
    for name in metta.__all__:
        public = getattr(metta, name)
        if name != "TrainConfig" and not (inspect.isclass(public) and issubclass(public, Exception)):
            found.append(name + signature(public))
        if inspect.isclass(public):
            methods = {key: value for key, value in vars(public).items() if inspect.isfunction(value) and key[0] != "_"}
            found += [f"{name}.{key}{signature(value)}" for key, value in sorted(methods.items())]
    return found


def test_what_is_public_is_this() -> None:
    """A name or a parameter that went, or came in, unseen in review: users' scripts depend on them."""
    assert metta.__all__ == sorted(metta.__all__) and set(metta.__all__) <= set(dir(metta))
    assert issubclass(metta.CheckpointError, metta.MettaError)
    assert signatures() == [line.strip() for line in SIGNATURES.strip().splitlines()]


def test_torch_is_loaded_by_what_needs_it_alone() -> None:
    """`import metta` that takes the seconds of torch, and a help text that waits for them."""
    uses = "; ".join(f"metta.{name}" for name in NEED_NO_TORCH)
    code = f"import sys, metta; {uses}; print('torch' in sys.modules); metta.Trainer; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split() == ["False", "True"]


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(AttributeError, match="^metta has no TrainConfg: did you mean TrainConfig\\?$"):
        metta.TrainConfg  # noqa: B018
    assert not hasattr(metta, "xyz")
