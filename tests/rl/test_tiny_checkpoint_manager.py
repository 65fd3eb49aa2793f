"""Saving, finding and loading the checkpoints of a run."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import types
import warnings
import zipfile
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

from metta.errors import CheckpointError, MettaError, UnsoundError
from metta.files import pt_file
from metta.files.pt_file import fingerprint
from metta.rl import tiny_checkpoint_manager
from metta.rl.tiny_checkpoint_manager import (
    TinyCheckpointManager,
    load_latest_agent,
    run_exists,
    save_checkpoint,
)
from tests.helpers.exact import differences
from tests.helpers.small_checkpoints import Agent, assert_latest, flip, save, state_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def manager(tmp_path: Path) -> TinyCheckpointManager:
    return TinyCheckpointManager("a", tmp_path)


def python(code: str, cwd: Path, **environment: str) -> str:
    """What the code prints in a fresh process with metta installed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_at_most_50_lines_of_code() -> None:
    """Prevents the core from growing: neither blank lines nor comments nor docstrings count."""
    source = Path(tiny_checkpoint_manager.__file__).read_text()
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            docstrings.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = [line.strip() for number, line in enumerate(source.splitlines(), 1) if number not in docstrings]
    assert sum(1 for line in lines if line and not line.startswith("#")) <= 50


def test_what_is_saved_is_loaded(manager: TinyCheckpointManager) -> None:
    """Prevents any loss on the way: parameters, buffers, tied weights, the nested trainer state."""
    save(manager, 7)
    assert sorted(os.listdir(manager.folder)) == ["agent_epoch_7.pt", "trainer_epoch_7.pt"]
    assert_latest(manager, 7)
    loaded = manager.load_agent(7)
    assert isinstance(loaded, Agent)
    assert loaded.tied is loaded.head.weight
    assert differences(manager.load_trainer_state(7), state_of(7)) == []


def test_module_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents the two forms of the API from drifting apart, and another default than ./train_dir."""
    monkeypatch.chdir(tmp_path)
    assert not run_exists("a")
    assert load_latest_agent("a") is None
    save_checkpoint(Agent(3), "a", 3, state_of(3))
    assert run_exists("a")
    assert differences(load_latest_agent("a"), Agent(3)) == []
    assert_latest(TinyCheckpointManager("a"), 3)
    assert (tmp_path / "train_dir/a/checkpoints/agent_epoch_3.pt").is_file()
    save_checkpoint(Agent(4), "a", 4, state_of(4), train_dir=tmp_path / "elsewhere")
    assert run_exists("a", train_dir=tmp_path / "elsewhere")
    assert not run_exists("b", train_dir=tmp_path / "elsewhere")
    assert differences(load_latest_agent("a", train_dir=tmp_path / "elsewhere"), Agent(4)) == []


def test_epoch_0_is_a_checkpoint(manager: TinyCheckpointManager) -> None:
    """Prevents `if epoch:` from taking epoch 0 for none."""
    assert not manager.exists() and manager.list_epochs() == [] and manager.load_latest() is None
    save(manager, 0)
    assert manager.exists() and manager.list_epochs() == [0]
    assert_latest(manager, 0)


def test_epochs_are_numbers(manager: TinyCheckpointManager) -> None:
    """Prevents ordering by name, where 9 comes after 10, and by time, which a copy changes."""
    save(manager, 100, 9, 10)
    os.utime(manager.file("agent", 9), (4e9, 4e9))
    assert manager.list_epochs() == [9, 10, 100]
    assert_latest(manager, 100)
    manager.save_checkpoint(Agent(101), np.int64(101), state_of(101))  # type: ignore[arg-type]
    assert_latest(manager, 101)


@pytest.mark.parametrize(
    "name",
    [
        "agent_epoch_007.pt",
        "agent_epoch_99999999999999999999.pt",  # sim played all its episodes, and SQLite refused the number
        "agent_epoch_-1.pt",
        "agent_epoch_.pt",
        "agent_epoch_9.pt.tmp",
        "agent_epoch_9.pt.0123abcd.tmp",
        ".agent_epoch_9.pt",
        "agent_epoch_9.pth",
        "agent_epoch_9.pt\n",
        "agent_epoch_9_score_5.pt",
        "agent_epoch_٩.pt",
        "Agent_epoch_9.pt",
        "trainer_epoch_9.pt",
        "latest.pt",
    ],
)
def test_other_names_are_no_checkpoints(manager: TinyCheckpointManager, name: str) -> None:
    """Prevents a temporary, copied or foreign file, or the trainer file, from being taken for an agent."""
    save(manager, 5)
    (manager.folder / name).write_bytes(manager.file("agent", 5).read_bytes())
    assert manager.list_epochs() == [5]
    assert_latest(manager, 5)


def test_only_files_and_links_are_checkpoints(manager: TinyCheckpointManager) -> None:
    """Prevents a folder of the right name from counting as a checkpoint."""
    save(manager, 5)
    manager.file("agent", 9).mkdir()
    assert manager.list_epochs() == [5]
    with pytest.raises(CheckpointError, match="no checkpoint for epoch=9"):
        manager.load_agent(9)
    assert_latest(manager, 5)


def elsewhere(manager: TinyCheckpointManager, store: Path) -> None:
    """Moves the run's files to another folder and leaves links, as git-annex does."""
    store.mkdir()
    for file in list(manager.folder.iterdir()):
        file.rename(store / file.name)
        file.symlink_to(store / file.name)


def test_links_to_files_are_checkpoints(manager: TinyCheckpointManager, tmp_path: Path) -> None:
    """Prevents a run whose files lie elsewhere from starting over without a word."""
    save(manager, 1, 2)
    elsewhere(manager, tmp_path / "store")
    assert manager.list_epochs() == [1, 2]
    assert_latest(manager, 2)
    assert differences(manager.load_trainer_state(1), state_of(1)) == []


def test_a_save_replaces_links_and_not_what_they_lead_to(manager: TinyCheckpointManager, tmp_path: Path) -> None:
    """Prevents a save from writing into a store that others have too, or into half of the pair only."""
    save(manager, 1, 2)
    elsewhere(manager, tmp_path / "store")
    stored = {file: file.read_bytes() for file in (tmp_path / "store").iterdir()}
    manager.save_checkpoint(Agent(7), 2, state_of(7))
    assert {file: file.read_bytes() for file in (tmp_path / "store").iterdir()} == stored
    assert not any(manager.file(kind, 2).is_symlink() for kind in ("agent", "trainer"))
    found = manager.load_latest()
    assert found is not None and differences(found, (2, Agent(7), state_of(7))) == []


@pytest.mark.parametrize("kind", ["agent", "trainer"])
def test_a_link_to_nothing_is_a_damaged_checkpoint(manager: TinyCheckpointManager, kind: str, tmp_path: Path) -> None:
    """Prevents a run whose store is not mounted from being taken for a new one, and its links from being replaced."""
    save(manager, 1, 2)
    elsewhere(manager, tmp_path / "store")
    (tmp_path / "store" / manager.file(kind, 2).name).unlink()
    assert manager.list_epochs() == [1, 2]
    with pytest.warns(UserWarning, match=f"{kind}_epoch_2.pt is a link to nothing"):
        assert_latest(manager, 1)
    shutil.rmtree(tmp_path / "store")
    assert manager.exists()
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        manager.load_latest()


@pytest.mark.parametrize("which", ["run", "checkpoints"])
def test_a_folder_that_is_a_link(manager: TinyCheckpointManager, which: str, tmp_path: Path) -> None:
    """Prevents a run on another disk from being missed, and a traceback while that disk is away."""
    save(manager, 1)
    folder = manager.folder.parent if which == "run" else manager.folder
    folder.rename(tmp_path / "disk")
    folder.symlink_to(tmp_path / "disk")
    save(manager, 2)
    assert manager.list_epochs() == [1, 2]
    assert_latest(manager, 2)
    (tmp_path / "disk").rename(tmp_path / "away")
    with pytest.raises(MettaError, match=f"{folder} is a link to {tmp_path}/disk, where nothing is"):
        save(manager, 3)
    assert not (tmp_path / "disk").exists() and folder.is_symlink()


def test_a_missing_epoch_is_named_with_those_that_exist(manager: TinyCheckpointManager) -> None:
    """Prevents an answer that leaves the user guessing which epochs there are, or that says of 7 that it is none."""
    with pytest.raises(CheckpointError) as none:
        manager.load_agent(3)
    assert str(none.value) == f"no checkpoint for epoch=3 in {manager.folder}: have none"
    save(manager, 8, 0, 7)
    for load in (manager.load_agent, manager.load_trainer_state):
        with pytest.raises(CheckpointError) as some:
            load(3)
        assert str(some.value) == f"no checkpoint for epoch=3 in {manager.folder}: have 0, 7, 8"
        with pytest.raises(CheckpointError, match=r"^no checkpoint for epoch=7\.0 in .*: have 0, 7, 8$"):
            load(7.0)  # type: ignore[arg-type]
        with pytest.raises(CheckpointError, match=r"^no checkpoint for epoch='7' in .*: have 0, 7, 8$"):
            load("7")  # type: ignore[arg-type]


@pytest.mark.parametrize("run", ["", ".", "..", "a/b", "../a", "/a", "a\\b", "a b", "a\n", "é", "a\0", "a=b", "~"])
def test_bad_run_names(run: str, tmp_path: Path) -> None:
    """Prevents a run name from leading out of train_dir."""
    with pytest.raises(ValueError, match="is not a run name"):
        TinyCheckpointManager(run, tmp_path)
    with pytest.raises(ValueError, match="is not a run name"):
        save_checkpoint(Agent(), run, 0, {}, train_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("run", ["a", "A.b_c-9", "0", "..a", "-", "x" * 200])
def test_good_run_names(run: str, tmp_path: Path) -> None:
    """Prevents a name that the rule allows from being refused."""
    save_checkpoint(Agent(), run, 0, {}, train_dir=tmp_path)
    assert run_exists(run, train_dir=tmp_path)


def test_epochs_count_from_0(manager: TinyCheckpointManager) -> None:
    """Prevents a save under a name that no reader matches, which would be lost."""
    with pytest.raises(ValueError, match="epoch=-1: epochs count from 0"):
        manager.save_checkpoint(Agent(), -1, {})
    assert not manager.exists()


def test_a_train_dir_of_any_name(tmp_path: Path) -> None:
    """Prevents trouble with names that torch's own writer does not take."""
    manager = TinyCheckpointManager("a", tmp_path / "tränings läufe ☃")
    save(manager, 1)
    assert_latest(manager, 1)


def test_no_torch_to_look_for_checkpoints(manager: TinyCheckpointManager) -> None:
    """Prevents a bad argument from being answered only after torch is imported, which takes seconds."""
    save(manager, 4)
    code = f"""
import sys
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager, run_exists
manager = TinyCheckpointManager("a", {str(manager.folder.parent.parent)!r})
print(manager.exists(), manager.list_epochs(), "torch" in sys.modules)
"""
    assert python(code, manager.folder) == "True [4] False"


@pytest.mark.parametrize("kind", ["agent", "trainer"])
def test_damage_falls_back_to_the_newest_sound_pair(manager: TinyCheckpointManager, kind: str) -> None:
    """Prevents training from starting afresh, or from going on with an agent and a state of two epochs."""
    save(manager, 1, 2, 3, 4)
    for epoch in (3, 4):
        flip(manager.file(kind, epoch))
    with pytest.warns(UserWarning) as caught:
        assert_latest(manager, 2)
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == 2
    for text, epoch in zip(texts, (4, 3), strict=True):
        assert text.startswith(f"{manager.file(kind, epoch)} is damaged: entry ")
        assert text.endswith(" has the wrong CRC; trying the checkpoint before it")


def test_latest_agent_falls_back_too(manager: TinyCheckpointManager) -> None:
    """Prevents an evaluation of damaged weights; a damaged trainer file does not hinder it."""
    save(manager, 1, 2)
    flip(manager.file("trainer", 2))
    assert differences(manager.load_latest_agent(), Agent(2)) == []
    flip(manager.file("agent", 2))
    with pytest.warns(UserWarning, match="agent_epoch_2.pt is damaged"):
        assert differences(manager.load_latest_agent(), Agent(1)) == []


def test_all_damaged_is_an_error(manager: TinyCheckpointManager) -> None:
    """Prevents a run whose checkpoints are all damaged from being taken for a new one."""
    save(manager, 1, 2)
    for epoch in (1, 2):
        flip(manager.file("agent", epoch))
    for load in (manager.load_latest, manager.load_latest_agent):
        with pytest.warns(UserWarning), pytest.raises(CheckpointError) as caught:
            load()
        assert str(caught.value) == f"none of the 2 checkpoints in {manager.folder} can be read"
    assert manager.exists()


def test_an_agent_without_its_trainer_file(manager: TinyCheckpointManager) -> None:
    """Prevents "not found" for an agent that can be evaluated, and resuming it from nothing."""
    save(manager, 1, 2)
    manager.file("trainer", 2).unlink()
    assert differences(manager.load_agent(2), Agent(2)) == []
    assert differences(manager.load_latest_agent(), Agent(2)) == []
    with pytest.raises(CheckpointError) as caught:
        manager.load_trainer_state(2)
    missing = manager.file("trainer", 2)
    assert str(caught.value) == f"{missing} is missing: without it the agent can be evaluated, not resumed"
    with pytest.warns(UserWarning, match="trainer_epoch_2.pt is missing"):
        assert_latest(manager, 1)


def test_code_that_cannot_be_imported_is_no_damage(
    manager: TinyCheckpointManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents a wrong PYTHONPATH from silently resuming from an older epoch, losing what was learned since."""
    save(manager, 1)
    module = types.ModuleType("some_package")
    monkeypatch.setitem(sys.modules, "some_package", module)
    module.Gone = type("Gone", (nn.Linear,), {"__module__": "some_package"})  # type: ignore[attr-defined]
    manager.save_checkpoint(module.Gone(2, 2), 2, state_of(2))
    monkeypatch.delitem(sys.modules, "some_package")
    for load in (manager.load_latest, manager.load_latest_agent, lambda: manager.load_agent(2)):
        with pytest.raises(CheckpointError) as caught:
            load()
        expected = "cannot be loaded here: ModuleNotFoundError: No module named 'some_package'"
        assert str(caught.value) == f"{manager.file('agent', 2)} {expected}"


class Unpicklable:
    def __reduce__(self) -> str:
        raise RuntimeError("not to be saved")


@pytest.mark.parametrize("where", ["agent", "trainer"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_failed_save_changes_nothing(manager: TinyCheckpointManager, where: str, epoch: int) -> None:
    """Prevents a save that fails, here of what cannot be pickled, from cutting a good file or leaving part of one."""
    save(manager, 1)
    before = {file: file.read_bytes() for file in manager.folder.iterdir()}
    agent, state = Agent(9), state_of(9)
    if where == "agent":
        agent.extra = Unpicklable()  # type: ignore[assignment]
    else:
        state["extra"] = Unpicklable()
    with pytest.raises(RuntimeError, match="not to be saved"):
        manager.save_checkpoint(agent, epoch, state)
    assert {file: file.read_bytes() for file in manager.folder.iterdir()} == before
    assert_latest(manager, 1)


def test_an_epoch_can_be_saved_again(manager: TinyCheckpointManager) -> None:
    """Prevents a resumed run from failing at an epoch whose damaged pair it fell back from."""
    save(manager, 1, 2)
    flip(manager.file("agent", 2))
    save(manager, 2)
    assert_latest(manager, 2)


def resumed(manager: TinyCheckpointManager, *seeds: int) -> int:
    """Which of the saves with these seeds load_latest gives, agent and state of it in every bit."""
    found = manager.load_latest()
    assert found is not None
    (seed,) = [s for s in seeds if differences(found[1:], (Agent(s), state_of(s))) == []]
    return seed


def test_agent_and_state_of_two_saves_are_no_pair(manager: TinyCheckpointManager) -> None:
    """Prevents a file put in the place of one of the two from being resumed as if it were of the same save."""
    save(manager, 1)
    for seed in (7, 8):
        TinyCheckpointManager("b", manager.folder.parent.parent).save_checkpoint(Agent(seed), 2, state_of(seed))
        if seed == 7:
            manager.save_checkpoint(Agent(9), 2, state_of(9))
    other = TinyCheckpointManager("b", manager.folder.parent.parent)
    for kind in ("agent", "trainer"):
        mine = manager.file(kind, 2).read_bytes()
        shutil.copy(other.file(kind, 2), manager.file(kind, 2))
        with pytest.warns(UserWarning, match="epoch_2.pt is of another save than its trainer file"):
            assert resumed(manager, 1, 8, 9) == 1
        with pytest.raises(CheckpointError, match="is of another save"):
            manager.load_trainer_state(2)
        manager.load_agent(2)
        manager.file(kind, 2).write_bytes(mine)
    assert resumed(manager, 1, 8, 9) == 9


def test_a_trainer_file_that_names_no_agent_is_no_pair(manager: TinyCheckpointManager) -> None:
    """Prevents a trainer file that was written by hand from being taken for the agent's."""
    save(manager, 1, 2)
    torch.save(state_of(2), manager.file("trainer", 2))
    with pytest.warns(UserWarning, match="agent_epoch_2.pt is of another save than its trainer file"):
        assert resumed(manager, 1, 2) == 1
    with pytest.raises(UnsoundError):
        pt_file.check_pair(manager.file("agent", 2), manager.file("trainer", 2))


class Ended(BaseException):
    """The process ends here: nothing that follows happens, no clearing up either."""


@pytest.mark.parametrize("damaged", [None, "agent", "trainer"])
@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_save_over_another_is_the_old_or_the_new_pair(
    manager: TinyCheckpointManager, renames: int, damaged: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents a pair whose agent is of one save and whose state is of another, and the loss of both.

    It is how a run goes on that fell back from a damaged newest pair.
    """
    save(manager, 4)
    manager.save_checkpoint(Agent(1), 5, state_of(1))
    if damaged is not None:
        flip(manager.file(damaged, 5))
    replace, unlink = os.replace, Path.unlink
    left = [renames]

    def until_the_end(source: Path, target: Path) -> None:
        if left[0] == 0:
            raise Ended
        left[0] -= 1
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", until_the_end)
        patch.setattr(Path, "replace", until_the_end)
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        if renames < 2:
            with pytest.raises(Ended):
                manager.save_checkpoint(Agent(2), 5, state_of(2))
        else:
            manager.save_checkpoint(Agent(2), 5, state_of(2))
    assert Path.unlink is unlink
    if renames == 0 and damaged is not None:
        with pytest.warns(UserWarning, match=f"{damaged}_epoch_5.pt is damaged"):
            assert resumed(manager, 1, 2, 4) == 4
    else:
        assert resumed(manager, 1, 2, 4) == (2 if renames else 1)
    save(manager, 6)
    assert_latest(manager, 6)


def test_a_reader_that_is_overtaken_lists_again(
    manager: TinyCheckpointManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents an error, or a stale answer, from a run whose newest pair was replaced by a newer one meanwhile."""
    save(manager, 1)
    list_epochs, left = TinyCheckpointManager.list_epochs, [1]

    def overtaken(self: TinyCheckpointManager) -> list[int]:
        epochs = list_epochs(self)
        if left:
            left.pop()
            save(self, 2)
            for kind in ("agent", "trainer"):
                self.file(kind, 1).unlink()
        return epochs

    for load in (lambda: resumed(manager, 1, 2), lambda: manager.load_latest_agent() and 2):
        with monkeypatch.context() as patch:
            patch.setattr(TinyCheckpointManager, "list_epochs", overtaken)
            assert load() == 2
    left.append(1)
    save(manager, 1)
    with monkeypatch.context() as patch:
        patch.setattr(TinyCheckpointManager, "list_epochs", overtaken)
        with pytest.raises(CheckpointError, match="agent_epoch_1.pt is missing$"):
            manager.load_agent(1)


WRITER = """
from metta.rl.saving.checkpoint_saver import CheckpointSaver
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from tests.helpers.small_checkpoints import Agent, state_of

saver = CheckpointSaver(TinyCheckpointManager("a", "."), keep_last=1)
for epoch in range(EPOCHS):
    saver.save(Agent(epoch), epoch, state_of(epoch))
saver.wait()
"""


@pytest.mark.parametrize("epochs", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_readers_beside_a_trainer(epochs: int, tmp_path: Path) -> None:
    """Prevents `no checkpoint for epoch=N` from a reader that listed N just before retention deleted it."""
    manager = TinyCheckpointManager("a", tmp_path)
    command = [sys.executable, "-W", "error", "-c", WRITER.replace("EPOCHS", str(epochs))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    reads, newest = 0, -1
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as writer:
        while writer.poll() is None:
            found = manager.load_latest()
            if found is None:
                assert newest == -1
                continue
            assert found[0] >= newest
            newest, reads = found[0], reads + 1
            assert differences(found[1:], (Agent(newest), state_of(newest))) == []
            assert manager.load_latest_agent() is not None
    assert writer.returncode == 0
    assert_latest(manager, epochs - 1)
    print(f"{reads} reads beside {epochs} saves with keep_last=1: none failed")
    assert reads > epochs / 20


SCRIPT = """
from torch import nn
from metta.rl.tiny_checkpoint_manager import save_checkpoint

SCALE = 3.0

def scaled(x):
    return SCALE * x

class Inner(nn.Module):
    def forward(self, x):
        return scaled(x)

class ScriptAgent(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()
        self.shift = lambda x: x + 1

    def forward(self, x):
        return self.shift(self.inner(x))
"""


def test_an_agent_of_a_script_loads_without_it(tmp_path: Path) -> None:
    """Prevents `AttributeError: Can't get attribute 'ScriptAgent' on <module '__main__'>` where else it is loaded."""
    python(SCRIPT + 'save_checkpoint(ScriptAgent(), "a", 0, {}, train_dir=".")', tmp_path)
    code = """
import torch
agent = torch.load("agent_epoch_0.pt", weights_only=False)
print(type(agent).__name__, agent(torch.ones(2)).tolist())
"""
    assert python(code, tmp_path / "a/checkpoints") == "ScriptAgent [4.0, 4.0]"


def test_an_agent_of_a_file_given_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents the same for a class from `agent=path/to/file.py:MyAgent`, whose file is not there later."""
    (tmp_path / "some_script.py").write_text(SCRIPT)
    spec = importlib.util.spec_from_file_location("some_script", tmp_path / "some_script.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "some_script", module)
        spec.loader.exec_module(module)
        cloudpickle.register_pickle_by_value(module)
        save_checkpoint(module.ScriptAgent(), "a", 0, {}, tmp_path)
        cloudpickle.unregister_pickle_by_value(module)
    (tmp_path / "some_script.py").unlink()
    agent = load_latest_agent("a", tmp_path)
    assert agent is not None and agent(torch.ones(1)) == 4


def test_plain_torch_load_reads_it(manager: TinyCheckpointManager) -> None:
    """Prevents files that need metta's reader, torch's own aside. A trainer file names the agent file of its save."""
    save(manager, 2)
    crc = fingerprint(manager.file("agent", 2))
    assert re.fullmatch("[0-9a-f]{8}", crc)
    for kind, expected in (("agent", Agent(2)), ("trainer", {**state_of(2), "agent_crc": crc})):
        for mmap in (False, True):
            loaded = torch.load(manager.file(kind, 2), weights_only=False, mmap=mmap)
            assert differences(loaded, expected) == []
    state = torch.load(manager.file("trainer", 2), weights_only=False)
    assert state["config"] == {"run": "a", "lr": 1e-3}


def test_a_compiled_agent_is_saved_bare(manager: TinyCheckpointManager) -> None:
    """Prevents the wrapper of torch.compile from being saved, whose state has other names and needs a compiler."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler imports modules with deprecations of their own
        compiled = torch.compile(Agent(2), backend="eager")
    manager.save_checkpoint(compiled, 2, state_of(2))
    assert type(manager.load_agent(2)) is Agent
    assert_latest(manager, 2)


def test_an_agent_compiled_in_place_is_saved(manager: TinyCheckpointManager) -> None:
    """Prevents `agent.compile()` from making an agent unsavable."""
    agent = Agent(2)
    agent.compile(backend="eager")
    manager.save_checkpoint(agent, 2, state_of(2))
    assert_latest(manager, 2)


def test_a_distributed_agent_is_saved_bare(manager: TinyCheckpointManager, tmp_path: Path) -> None:
    """Prevents DistributedDataParallel from being saved, which loads only within a process group."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(Agent(2))
        manager.save_checkpoint(wrapped, 2, state_of(2))
        manager.save_checkpoint(nn.DataParallel(Agent(1)), 1, state_of(1))
    finally:
        torch.distributed.destroy_process_group()
    assert type(manager.load_agent(2)) is Agent and type(manager.load_agent(1)) is Agent
    assert_latest(manager, 2)


class Wrapped(nn.Module):
    """Has an attribute of the name that wrappers use."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 2)


def test_an_agent_with_a_module_of_its_own(manager: TinyCheckpointManager) -> None:
    """Prevents the user's own `module` attribute from being saved in place of the agent."""
    manager.save_checkpoint(Wrapped(), 0, {})
    assert type(manager.load_agent(0)) is Wrapped


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_saved_on_a_gpu_loads_without_one(manager: TinyCheckpointManager) -> None:
    """Prevents a file whose tensors ask for the GPU that they were saved on."""
    agent = Agent(2).cuda()
    state = {"adam": torch.ones(3, device="cuda"), "lstm": nn.LSTM(3, 4).cuda()}
    manager.save_checkpoint(agent, 2, state)
    code = """
import torch
agent = torch.load("agent_epoch_2.pt", weights_only=False)
state = torch.load("trainer_epoch_2.pt", weights_only=False)
print(agent.tied is agent.head.weight, agent.tied.requires_grad, agent.tied.is_leaf, state["adam"].device)
"""
    assert python(code, manager.folder, CUDA_VISIBLE_DEVICES="") == "True True True cpu"
    assert differences(manager.load_agent(2), agent.cpu()) == []
    assert manager.load_agent(2, map_location="cuda").mean.is_cuda


class ZipLike(torch.nn.Module):
    """Contents that look like parts of a zip, are empty, or are longer than what is read at once."""

    def __init__(self):
        super().__init__()
        looks = [b"PK\3\4" + bytes(26), b"PK\7\x08" + bytes(12), b"PK\1\2" + bytes(60), b"", bytes(1_000_003)]
        for index, content in enumerate(looks):
            self.register_buffer(f"look{index}", torch.tensor(list(content), dtype=torch.uint8))


def test_the_crcs_in_a_file_are_those_of_its_content(tmp_path):
    """Files whose CRCs tell nothing: a torch that takes none, or whose option is switched off."""
    manager = TinyCheckpointManager("run", tmp_path)
    manager.save_checkpoint(ZipLike(), 1, {"optimizer": torch.arange(5)})
    torch.save({"a": torch.ones(3)}, tmp_path / "torchs.pt")
    for path in (manager.file("agent", 1), manager.file("trainer", 1), tmp_path / "torchs.pt"):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            assert all(entry.CRC for entry in archive.infolist() if entry.file_size)
    loaded = manager.load_agent(1)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(ZipLike().buffers(), loaded.buffers(), strict=True))
    assert torch.serialization.get_crc32_options()
