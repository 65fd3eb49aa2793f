"""Saving in the background, and which checkpoints are kept."""

import errno
import os
import random
import shutil
import subprocess
import sys
import threading
import warnings
from collections import OrderedDict, defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from metta.errors import CheckpointError, SaveError, UnsoundError
from metta.files.pt_file import check_pair
from metta.rl.saving.checkpoint_saver import CheckpointSaver, snapshot
from metta.rl.saving.retention import Retention
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from tests.helpers.exact import differences
from tests.helpers.small_checkpoints import Agent, assert_latest, flip, save, state_of

ROOT = Path(__file__).parents[2]


class HeldManager(TinyCheckpointManager):
    """Writes only when told to."""

    def __init__(self, run: str, train_dir: Path):
        super().__init__(run, train_dir)
        self.go = threading.Semaphore(0)
        self.running = self.most_running = 0

    def save_checkpoint(self, agent: nn.Module, epoch: int, trainer_state: dict[str, Any]) -> None:
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        assert self.go.acquire(timeout=60)
        super().save_checkpoint(agent, epoch, trainer_state)
        self.running -= 1


@pytest.fixture
def manager(tmp_path: Path) -> TinyCheckpointManager:
    return TinyCheckpointManager("a", tmp_path)


def test_save_and_wait(manager: TinyCheckpointManager) -> None:
    """Prevents the background's files from differing from those that the manager writes itself."""
    saver = CheckpointSaver(manager)
    for epoch in range(4):
        saver.save(Agent(epoch), epoch, state_of(epoch))
    saver.wait()
    assert manager.list_epochs() == [0, 1, 2, 3]
    for epoch in range(4):
        assert differences(manager.load_agent(epoch), Agent(epoch)) == []
        assert differences(manager.load_trainer_state(epoch), state_of(epoch)) == []
    assert len(os.listdir(manager.folder)) == 8


def test_the_saved_state_is_of_one_step(tmp_path: Path) -> None:
    """Prevents what training changes while the thread writes from getting into the file."""
    manager = HeldManager("a", tmp_path)
    saver = CheckpointSaver(manager)
    agent, state = Agent(1), state_of(1)
    state["lists"] = [[1, 2], (np.ones(3), [torch.ones(2)])]
    state["generator"] = np.random.default_rng(1)
    expected = state["generator"].bit_generator.state
    saver.save(agent, 1, state)  # returns though nothing is written yet
    with torch.no_grad():
        for tensor in (*agent.parameters(), *agent.buffers(), state["optimizer"]["state"][0]["exp_avg"]):
            tensor.fill_(7)
    state["epoch"], state["observations"][:] = 99, 99
    state["lists"][0].append(3)
    state["lists"][1][0][:] = 9
    state["lists"][1][1][0].zero_()
    state["generator"].random()
    assert not manager.exists()
    manager.go.release()
    saver.wait()
    assert differences(manager.load_agent(1), Agent(1)) == []
    loaded = manager.load_trainer_state(1)
    assert loaded.pop("generator").bit_generator.state == expected
    assert differences(loaded.pop("lists"), [[1, 2], (np.ones(3), [torch.ones(2)])]) == []
    assert differences(loaded, state_of(1)) == []


def test_one_save_at_a_time(tmp_path: Path) -> None:
    """Prevents a slow disk from piling up snapshots, or a second save from overwriting the first's memory."""
    manager = HeldManager("a", tmp_path)
    saver = CheckpointSaver(manager)
    saver.save(Agent(1), 1, state_of(1))
    second = threading.Thread(target=saver.save, args=(Agent(2), 2, state_of(2)))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    manager.go.release(2)
    second.join()
    saver.wait()
    assert manager.most_running == 1
    for epoch in (1, 2):
        assert differences(manager.load_agent(epoch), Agent(epoch)) == []
        assert differences(manager.load_trainer_state(epoch), state_of(epoch)) == []


class FailingManager(TinyCheckpointManager):
    def save_checkpoint(self, agent: nn.Module, epoch: int, trainer_state: dict[str, Any]) -> None:
        if epoch == 2:
            raise OSError(28, "No space left on device")
        super().save_checkpoint(agent, epoch, trainer_state)


@pytest.mark.parametrize("how", ["save", "wait", "check"])
def test_a_failed_save_is_raised(how: str, tmp_path: Path) -> None:
    """Prevents a save error from being logged and swallowed, or from hindering the next save."""
    saver = CheckpointSaver(FailingManager("a", tmp_path))
    saver.save(Agent(1), 1, state_of(1))
    saver.save(Agent(2), 2, state_of(2))
    with pytest.raises(SaveError) as caught:
        if how == "save":
            saver.save(Agent(3), 3, state_of(3))
        elif how == "wait":
            saver.wait()
        else:
            while True:
                saver.check()
    folder = saver.manager.folder
    assert str(caught.value) == f"could not save epoch=2 in {folder}: OSError: [Errno 28] No space left on device"
    assert caught.value.epoch == 2
    assert isinstance(caught.value.__cause__, OSError)
    saver.check()
    saver.wait()
    assert_latest(saver.manager, 1)
    saver.save(Agent(4), 4, state_of(4))
    saver.wait()
    assert_latest(saver.manager, 4)


def test_what_cannot_be_saved_is_raised(manager: TinyCheckpointManager) -> None:
    """Prevents an agent that cannot be pickled from stopping saves for good without a word."""
    saver = CheckpointSaver(manager)
    with pytest.raises((SaveError, TypeError), match="cannot pickle"):
        saver.save(Agent(1), 1, {"lock": threading.Lock()})
        saver.wait()
    saver.save(Agent(2), 2, state_of(2))
    saver.wait()
    assert_latest(manager, 2)


def test_the_last_save_is_finished_at_exit(tmp_path: Path) -> None:
    """Prevents a program that ends without `wait` from losing the save under way."""
    code = """
import time
from metta.rl.saving.checkpoint_saver import CheckpointSaver
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from tests.helpers.small_checkpoints import Agent, state_of

class Slow(TinyCheckpointManager):
    def save_checkpoint(self, *args):
        time.sleep(0.3)
        super().save_checkpoint(*args)

CheckpointSaver(Slow("a", ".")).save(Agent(3), 3, state_of(3))
"""
    command = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    assert_latest(TinyCheckpointManager("a", tmp_path), 3)


class OwnState(nn.Linear):
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "gone": None}


class Everything(nn.Module):
    """An agent with all that is hard to copy."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, num_layers=2)
        self.own = OwnState(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.own.weight
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.flat = torch.arange(6.0)
        self.rows = [self.flat[:3], self.flat.view(2, 3).t()]
        self.register_buffer("temporary", torch.ones(1), persistent=False)
        self.hidden = self.frozen * self.tied.weight.sum()  # not a leaf
        self.sparse = torch.eye(3).to_sparse()
        self.nothing = torch.zeros(0, 3)
        self.noted = torch.ones(2)
        self.noted.note = "kept"  # type: ignore[attr-defined]
        self.counts = defaultdict(list, {"a": [1]})
        self.ordered = OrderedDict(z=1, a=2)
        self.generator = torch.Generator().manual_seed(3)
        self.activation = lambda x: x + 1
        self.others = [self]
        self.register_forward_hook(hook)


def hook(module: nn.Module, args: Any, output: Any) -> None:
    pass


def test_a_snapshot_of_everything(manager: TinyCheckpointManager) -> None:
    """Prevents a copy that loses ties, views, hooks, flags or attributes which a direct save keeps."""
    agent = Everything()
    agent.eval()
    copied = snapshot(agent, {"agent": agent, "weight": agent.tied.weight})
    for number, kept in enumerate((copied[0], agent)):
        manager.save_checkpoint(kept, number, {})
    assert copied[1]["agent"] is copied[0] and copied[1]["weight"] is copied[0].own.weight
    for found in (copied[0], manager.load_agent(0)):
        assert isinstance(found, Everything) and found is not agent
        assert differences(dict(found.state_dict()), dict(agent.state_dict())) == []
        assert found.tied.weight is found.own.weight and found.tied.weight is not agent.own.weight
        assert found.rows[0].data_ptr() == found.flat.data_ptr() and found.rows[1].stride() == agent.rows[1].stride()
        assert differences(found.rows, agent.rows) == []
        assert not found.training and not found.frozen.requires_grad and found.own.weight.requires_grad
        assert found.hidden.requires_grad and torch.equal(found.hidden, agent.hidden)
        assert torch.equal(found.sparse.to_dense(), torch.eye(3))
        assert found.nothing.shape == (0, 3) and vars(found.noted) == {"note": "kept"}
        assert found.counts == {"a": [1]} and list(found.ordered) == ["z", "a"]
        assert found.counts["a"] is not agent.counts["a"]
        assert torch.equal(found.generator.get_state(), agent.generator.get_state())
        assert found.others[0] is found and found.activation(1) == 2 and len(found._forward_hooks) == 1
        assert vars(found.own)["gone"] is None and "temporary" in found._non_persistent_buffers_set
        for mine, theirs in zip(found.parameters(), agent.parameters(), strict=True):
            assert mine.data_ptr() != theirs.data_ptr() and mine.requires_grad == theirs.requires_grad
        inputs = torch.ones(2, 3)
        assert torch.equal(found.lstm(inputs)[0], agent.lstm(inputs)[0])


def test_a_snapshot_is_without_wrappers(tmp_path: Path) -> None:
    """Prevents a wrapper from being copied: a DistributedDataParallel joins a process group again when it is."""
    copied, _ = snapshot(nn.DataParallel(Agent(1)), {})
    assert type(copied) is Agent and differences(copied, Agent(1)) == []


class Closing(nn.Module):
    """A hook over the agent itself."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(2))

        def note(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            self.seen += output.detach()

        self.layer.register_forward_hook(note)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs)


def test_what_a_hook_closes_over_is_copied_with_it(manager: TinyCheckpointManager) -> None:
    """Prevents a copy whose hook writes into the agent in training, which goes on while the copy is saved."""
    agent = Closing()
    copied, _ = snapshot(agent, {})
    manager.save_checkpoint(copied, 1, {})
    for one in (copied, manager.load_agent(1)):
        assert isinstance(one, Closing)
        one(torch.ones(2))
        assert one.seen.any() and not agent.seen.any()


def test_keep_last(manager: TinyCheckpointManager) -> None:
    """Prevents the disk from filling up, and anything but the oldest pairs from going."""
    saver = CheckpointSaver(manager, keep_last=2)
    for epoch in (9, 10, 11, 100):
        saver.save(Agent(epoch), epoch, state_of(epoch))
    saver.wait()
    assert manager.list_epochs() == [11, 100]
    assert len(os.listdir(manager.folder)) == 4
    assert_latest(manager, 100)


def test_all_are_kept_unless_asked_otherwise(manager: TinyCheckpointManager) -> None:
    """Prevents a default that deletes."""
    save(manager, 1, 2, 3)
    Retention(manager, None, tuple).apply()
    assert manager.list_epochs() == [1, 2, 3]


@pytest.mark.parametrize("keep_last", [0, -1])
def test_keep_last_is_at_least_1(manager: TinyCheckpointManager, keep_last: int) -> None:
    """Prevents keep_last=0 from deleting the newest checkpoint."""
    with pytest.raises(ValueError, match=f"keep_last={keep_last}: the newest checkpoint is always kept, so at least 1"):
        CheckpointSaver(manager, keep_last)


def test_keep_epochs_are_never_deleted(manager: TinyCheckpointManager) -> None:
    """Prevents the best evaluated checkpoint from being deleted. What is best is asked each time."""
    save(manager, 1, 2, 3, 4)
    best = [1]
    retention = Retention(manager, 1, lambda: best)
    retention.apply()
    assert manager.list_epochs() == [1, 4]
    best[:] = [4]
    save(manager, 5)
    retention.apply()
    assert manager.list_epochs() == [4, 5]


@pytest.mark.parametrize("kind", ["agent", "trainer"])
def test_damaged_pairs_do_not_count_as_kept(manager: TinyCheckpointManager, kind: str) -> None:
    """Prevents retention from leaving nothing but damaged checkpoints."""
    save(manager, 1, 2, 3, 4, 5)
    for epoch in (4, 5):
        flip(manager.file(kind, epoch))
    Retention(manager, 1, tuple).apply()
    assert manager.list_epochs() == [3, 4, 5]
    assert len(os.listdir(manager.folder)) == 6


def test_incomplete_pairs_neither_count_nor_go(manager: TinyCheckpointManager) -> None:
    """Prevents an agent without its trainer file from counting as kept, or from being deleted: it can be evaluated."""
    save(manager, 1, 2, 3, 4, 5)
    manager.file("trainer", 5).unlink()
    manager.file("trainer", 2).unlink()
    Retention(manager, 1, tuple).apply()
    assert manager.list_epochs() == [2, 4, 5]
    assert len(os.listdir(manager.folder)) == 4


def test_a_pair_that_was_sound_may_be_damaged_later(manager: TinyCheckpointManager) -> None:
    """Prevents an old verdict from counting when the file has changed since."""
    retention = Retention(manager, 1, tuple)
    save(manager, 1, 2)
    retention.apply()
    assert manager.list_epochs() == [2]
    save(manager, 3)
    retention.apply()
    flip(manager.file("agent", 3))
    save(manager, 1)
    retention.apply()
    assert manager.list_epochs() == [1, 3]


def test_leftovers_are_removed(manager: TinyCheckpointManager) -> None:
    """Prevents what killed saves and deletions leave from filling the disk; other people's files stay."""
    save(manager, 1, 2)
    leftovers = [
        "trainer_epoch_3.pt",
        "agent_epoch_3.pt.0123abcd.tmp",
        "trainer_epoch_3.pt.0123abce.tmp",
        "trainer_epoch_1.pt.0123abcf.tmp",
    ]
    others = ["notes.tmp", "agent_epoch_3.pt.tmp", "agent_epoch_x.pt.0123abcd.tmp", "trainer_epoch_03.pt", "a.pt"]
    for name in leftovers + others:
        (manager.folder / name).write_bytes(b"part")
    (manager.folder / "trainer_epoch_4.pt.0123abcd.tmp").mkdir()
    saver = CheckpointSaver(manager)
    saver.save(Agent(5), 5, state_of(5))
    saver.wait()
    assert manager.list_epochs() == [1, 2, 5]
    names = set(os.listdir(manager.folder))
    assert not names & set(leftovers)
    assert names >= {*others, "trainer_epoch_4.pt.0123abcd.tmp"}


@pytest.mark.parametrize("stage", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("epoch", [2, 3])
def test_a_save_under_way_is_not_lost(
    manager: TinyCheckpointManager, epoch: int, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents a trainer that begins, and takes all it finds for dead, from deleting somebody else's save."""
    save(manager, 1, 2)
    replace, fsync, passed = os.replace, os.fsync, list[None]()

    def pass_stage() -> None:
        passed.append(None)
        if len(passed) == stage + 1:
            Retention(manager, None, tuple).apply()

    def replace_and_pass(source: Path, target: Path) -> None:
        pass_stage()
        replace(source, target)

    def fsync_and_pass(descriptor: int) -> None:
        pass_stage()
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_and_pass)
        patch.setattr(Path, "replace", lambda self, target: replace_and_pass(self, target))
        patch.setattr(os, "fsync", fsync_and_pass)
        manager.save_checkpoint(Agent(7), epoch, state_of(7))
    assert len(passed) >= 6
    found = manager.load_latest()
    assert found is not None and differences(found, (epoch, Agent(7), state_of(7))) == []
    assert len(os.listdir(manager.folder)) == 2 * len(manager.list_epochs())


def test_what_begins_later_is_not_a_leftover(manager: TinyCheckpointManager) -> None:
    """Prevents a trainer that clears up after each save from deleting each time what somebody else is saving."""
    retention = Retention(manager, None, tuple)
    names = ["agent_epoch_3.pt.0123abcd.tmp", "trainer_epoch_3.pt.0123abce.tmp", "trainer_epoch_3.pt"]
    for name in names:
        (manager.folder / name).write_bytes(b"part")
    retention.apply()
    assert sorted(os.listdir(manager.folder)) == sorted(names)


def test_what_cannot_be_deleted_costs_no_training(
    manager: TinyCheckpointManager, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents a run from ending with "could not save", all of it saved, for a file cannot be deleted."""
    saver = CheckpointSaver(manager, keep_last=1)
    saver.save(Agent(0), 0, state_of(0))
    saver.wait()

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    with monkeypatch.context() as context:
        context.setattr(Path, "unlink", refuse)
        for epoch in (1, 2):
            saver.save(Agent(epoch), epoch, state_of(epoch))
            saver.wait()
    assert manager.list_epochs() == [0, 1, 2]
    said = capsys.readouterr().err
    assert said.count("keeps every checkpoint: PermissionError") == 1 and said.count("\n") == 1
    assert_latest(manager, 2)


def test_links_are_deleted_and_not_what_they_lead_to(manager: TinyCheckpointManager, tmp_path: Path) -> None:
    """Prevents retention from deleting files of a store, or from stopping at links."""
    save(manager, 1, 2, 3)
    store = tmp_path / "store"
    store.mkdir()
    for file in list(manager.folder.iterdir()):
        file.rename(store / file.name)
        file.symlink_to(store / file.name)
    Retention(manager, 1, tuple).apply()
    assert manager.list_epochs() == [3]
    assert len(os.listdir(store)) == 6
    assert_latest(manager, 3)


def test_pairs_of_two_saves_do_not_count_as_kept(manager: TinyCheckpointManager) -> None:
    """Prevents retention from leaving pairs that cannot be resumed."""
    save(manager, 1, 2, 3)
    manager.file("agent", 3).write_bytes(manager.file("agent", 2).read_bytes())
    Retention(manager, 1, tuple).apply()
    assert manager.list_epochs() == [2, 3]
    assert len(os.listdir(manager.folder)) == 4


def test_clocks_do_not_matter(manager: TinyCheckpointManager) -> None:
    """Prevents times, which a copy changes and a clock that is set back turns round, from saying what is new."""
    save(manager, 1, 2, 3)
    for epoch in (1, 2, 3):
        for kind in ("agent", "trainer"):
            os.utime(manager.file(kind, epoch), (4e9 - epoch, 4e9 - epoch))
    assert_latest(manager, 3)
    Retention(manager, 2, tuple).apply()
    assert manager.list_epochs() == [2, 3]


def test_random_histories(manager: TinyCheckpointManager) -> None:
    """Prevents any mixture of damage, gaps and favourites from losing the newest sound pair or a favourite."""
    generator = random.Random(5)
    for _ in range(12):
        for file in list(manager.folder.glob("*")):
            file.unlink()
        epochs = sorted(generator.sample(range(50), 6))
        save(manager, *epochs)
        sound = []
        for epoch in epochs:
            fate = generator.choice(["sound", "sound", "agent", "trainer", "missing"])
            if fate == "sound":
                sound.append(epoch)
            elif fate == "missing":
                manager.file("trainer", epoch).unlink()
            else:
                flip(manager.file(fate, epoch))
        keep_last, best = generator.randint(1, 3), set(generator.sample(epochs, 2))
        Retention(manager, keep_last, partial(set, best)).apply()
        left = manager.list_epochs()
        assert set(left) >= set(sound[-keep_last:]) | best
        if len(sound) >= keep_last:
            assert all(epoch in best or epoch >= sound[-keep_last] or not trainer(manager, epoch) for epoch in left)
        else:
            assert left == epochs


class Ended(BaseException):
    """The process ends here: nothing that follows happens, no clearing up either."""


@pytest.mark.parametrize("histories", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_histories_of_saves(manager: TinyCheckpointManager, histories: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents any order of saves, kills, damage, foreign files and clearing up from pairing two saves.

    Nor may a save that ended, and was not damaged since, be lost for an older one.
    """
    generator = random.Random(histories)
    other = TinyCheckpointManager("b", manager.folder.parent.parent)
    seed, loaded = 0, 0
    for _ in range(histories):
        shutil.rmtree(manager.folder, ignore_errors=True)
        whole: dict[int, int] = {}  # epoch -> seed of a save that got so far, if nothing was done to its files since
        unfinished: set[int] = set()  # of those, the ones whose agent file has not got its name
        for _ in range(8):
            seed, epoch, kind = seed + 1, generator.choice([1, 2]), generator.choice(["agent", "trainer"])
            match generator.choice(["save", "save", "kill", "damage", "copy", "begin"]):
                case "save":
                    manager.save_checkpoint(Agent(seed), epoch, state_of(seed))
                    whole[epoch] = seed
                    unfinished.discard(epoch)
                case "kill":
                    renames = generator.randrange(2)
                    save_killed(manager, epoch, seed, renames, monkeypatch)
                    if renames == 1 and epoch in manager.list_epochs():
                        whole[epoch] = seed
                        unfinished.add(epoch)
                case "damage" if manager.file(kind, epoch).exists():
                    flip(manager.file(kind, epoch))
                    whole.pop(epoch, None)
                case "copy":
                    other.save_checkpoint(Agent(seed), epoch, state_of(seed))
                    manager.folder.mkdir(parents=True, exist_ok=True)
                    shutil.copy(other.file(kind, epoch), manager.file(kind, epoch))
                    whole.pop(epoch, None)
                case "begin":  # a trainer, which saves before it clears up
                    retention = Retention(manager, None, tuple)
                    manager.save_checkpoint(Agent(seed), epoch, state_of(seed))
                    retention.apply(saved=epoch)
                    whole = {e: s for e, s in whole.items() if e not in unfinished} | {epoch: seed}
                    unfinished.clear()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    found = manager.load_latest()
                except CheckpointError:
                    assert not whole
                    continue
            if found is None:
                assert not whole
                continue
            saved = found[2]["epoch"]
            assert differences(found[1:], (Agent(saved), state_of(saved))) == []
            assert found[0] >= max(whole, default=0) and whole.get(found[0], saved) == saved
            loaded += 1
    print(f"{histories} histories of 8 events: {loaded} pairs loaded, each of one save")
    assert loaded > 4 * histories


def save_killed(
    manager: TinyCheckpointManager, epoch: int, seed: int, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save whose process ends after so many renames."""
    replace, left = os.replace, [renames]

    def until_the_end(source: Path, target: Path) -> None:
        if left[0] == 0:
            raise Ended
        left[0] -= 1
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(Ended):
        patch.setattr(os, "replace", until_the_end)
        patch.setattr(Path, "replace", until_the_end)
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        manager.save_checkpoint(Agent(seed), epoch, state_of(seed))


def trainer(manager: TinyCheckpointManager, epoch: int) -> bool:
    return manager.file("trainer", epoch).exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_snapshot_of_a_gpu(manager: TinyCheckpointManager) -> None:
    """Prevents training on from changing what is being copied off the GPU, and files that need a GPU."""
    for epoch in range(3):
        state = [torch.randn(5_000_000, device="cuda") for _ in range(4)]
        expected = [tensor.cpu() for tensor in state]
        copied = snapshot(Agent(epoch), {"state": state})
        for tensor in state:
            tensor.zero_()
        manager.save_checkpoint(copied[0], epoch, copied[1])
        assert differences(manager.load_trainer_state(epoch)["state"], expected) == []


@pytest.mark.parametrize("entries", [0, 1, 100, 300, 70_000])
def test_check_finds_the_fingerprint_in_a_state_of_any_size(manager: TinyCheckpointManager, entries: int) -> None:
    """Prevents sound pairs from being called unsound: pickle counts what it has stored, in more bytes from 256 on.

    After a restart keep_last then deleted none of the checkpoints before it.
    """
    manager.save_checkpoint(Agent(), 1, {"entries": [f"entry {i}" for i in range(entries)]})
    check_pair(manager.file("agent", 1), manager.file("trainer", 1))


def test_check_reads_all_of_a_file(manager: TinyCheckpointManager) -> None:
    """Prevents retention from calling a pair sound that it has not read."""
    save(manager, 1, 2)
    for epoch, kind in ((1, "agent"), (2, "trainer")):
        files = manager.file("agent", epoch), manager.file("trainer", epoch)
        check_pair(*files)
        flip(manager.file(kind, epoch))
        with pytest.raises(UnsoundError, match="has the wrong CRC"):
            check_pair(*files)
