"""Saves and deletions that are hit at every system call: by an error, or by the end of the process.

A server process imports torch once and forks a child for each point. strace joins the child just before it saves, makes
the N-th call of one kind fail or kills the child there, and the test looks at what is on the disk.
"""

import collections
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metta.errors import SaveError
from metta.rl.saving.checkpoint_saver import CheckpointSaver
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from tests.helpers.exact import differences
from tests.helpers.small_checkpoints import Agent, Large, assert_latest, save, state_of

ROOT = Path(__file__).parents[2]
CALLS = (
    "openat,open,creat,write,writev,pwrite64,pwritev,fsync,fdatasync,sync_file_range,fadvise64,ftruncate,fallocate,"
    "rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,close,flock,stat,newfstatat,lseek,getdents64"
)
ERRORS = ("EIO", "ENOSPC", "EDQUOT")
SERVER = """
import ctypes, json, os, sys
import torch, metta.files.portable_pickle
from metta.rl.saving.retention import Retention
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from tests.helpers.small_checkpoints import Agent, save, state_of

save(TinyCheckpointManager("warm-up", sys.argv[1]), 0)  # so that nothing is imported later
Retention(TinyCheckpointManager("warm-up", sys.argv[1]), 1, tuple).apply()
PR_SET_PTRACER = 0x59616D61
for line in sys.stdin:
    what, train_dir = json.loads(line)
    manager = TinyCheckpointManager("a", train_dir)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)  # lets strace join where only parents may
        os.read(reading, 1)
        status = 0
        try:
            if what == "save":
                save(manager, 3)
            elif what == "save again":
                manager.save_checkpoint(Agent(7), 2, state_of(7))
            else:
                Retention(manager, 1, tuple).apply()
        except OSError:
            status = 3
        os._exit(status)
    print(child, flush=True)
    sys.stdin.readline()
    os.write(writing, b"x")
    os.close(reading)
    os.close(writing)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Faults:
    """The server, and strace for its children."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = folder / "strace.log"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", SERVER, str(folder / "warm-up")]
        self.server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )

    def close(self) -> None:
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.close()
        self.server.stdout.close()
        self.server.wait()

    def run(self, what: str, train_dir: Path, *options: str) -> tuple[int, str]:
        """The child's exit code (0 done, 3 raised an OSError, or minus a signal), and strace's log of it."""
        assert self.server.stdin is not None and self.server.stdout is not None
        print(json.dumps([what, str(train_dir)]), file=self.server.stdin, flush=True)
        child = self.server.stdout.readline().strip()
        command = ["strace", "-f", "-p", child, "-o", str(self.log), *options]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            said = strace.stderr.readline()
            print("go", file=self.server.stdin, flush=True)
            status = int(self.server.stdout.readline())
            strace.communicate()
        if "attached" not in said:
            raise PermissionError(said.strip())
        return status, self.log.read_text()


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    faults = Faults(tmp_path_factory.mktemp("faults"))
    try:
        faults.run("save", faults.folder / "first")
        yield faults
    except PermissionError as error:
        pytest.skip(f"strace may not trace here: {error}")
    finally:
        faults.close()


LEFTOVERS = ("agent_epoch_2.pt.0123abcd.tmp", "trainer_epoch_3.pt.0123abcd.tmp", "trainer_epoch_3.pt")


def fresh(faults: Faults, what: str) -> TinyCheckpointManager:
    """A run with epochs 1 and 2, the state before each point; for retention, what killed saves left besides."""
    base, now = faults.folder / "base", faults.folder / "now"
    if not base.exists():
        save(TinyCheckpointManager("a", base), 1, 2)
    shutil.rmtree(now, ignore_errors=True)
    shutil.copytree(base, now)
    manager = TinyCheckpointManager("a", now)
    for name in LEFTOVERS if what == "retention" else ():
        (manager.folder / name).write_bytes(b"part")
    return manager


def calls_of(log: str) -> dict[str, int]:
    """How often each call occurs in strace's log."""
    return collections.Counter(re.findall(r"^\d+ +(\w+)\(", log, re.MULTILINE))


def points(faults: Faults, what: str) -> list[tuple[str, str]]:
    """(call, fault) for every occurrence of every call that `what` makes, as strace's `inject` takes them."""
    status, log = faults.run(what, fresh(faults, what).folder.parent.parent, "-e", f"trace={CALLS}")
    assert status == 0
    effects = [f"error={error}" for error in ERRORS] + ["signal=SIGKILL"]
    return [
        (call, f"{effect}:when={number}")
        for call, count in calls_of(log).items()
        for number in range(1, count + 1)
        for effect in effects
    ]


def some_of(points: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """For the quick test: each call's first and last occurrence, and each occurrence of those that commit or delete."""
    chosen = []
    for call, fault in points:
        effect, number = fault.split(":when=")
        last = max(int(other.split("=")[-1]) for name, other in points if name == call)
        commits = call.startswith(("rename", "unlink", "fsync"))
        kill = effect == "signal=SIGKILL" and (commits or int(number) in (1, last))
        if kill or (effect == "error=ENOSPC" and int(number) == last):
            chosen.append((call, fault))
    return chosen


def hit(faults: Faults, what: str, call: str, fault: str) -> tuple[TinyCheckpointManager, int]:
    manager = fresh(faults, what)
    status, log = faults.run(what, manager.folder.parent.parent, "-e", f"trace={call}", "-e", f"inject={call}:{fault}")
    if "SIGKILL" in fault:
        assert status == -signal.SIGKILL, log
    else:
        assert "(INJECTED)" in log and status in (0, 3), log
    return manager, status


def assert_next_save_works(manager: TinyCheckpointManager, epoch: int) -> None:
    """And that it clears away what the fault left."""
    saver = CheckpointSaver(manager)
    saver.save(Agent(epoch), epoch, state_of(epoch))
    saver.wait()
    assert_latest(manager, epoch)
    left = {f"{kind}_epoch_{n}.pt" for n in manager.list_epochs() for kind in ("agent", "trainer")}
    assert set(os.listdir(manager.folder)) == left


@pytest.mark.parametrize("how_many", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_faults_in_a_save(faults: Faults, how_many: str) -> None:
    """Prevents a save that is hit anywhere from hurting an older checkpoint, or from leaving part of a new one."""
    chosen = points(faults, "save")
    chosen = some_of(chosen) if how_many == "some" else chosen
    outcomes: collections.Counter[str] = collections.Counter()
    for call, fault in chosen:
        manager, status = hit(faults, "save", call, fault)
        try:
            epochs = manager.list_epochs()
            assert epochs in ([1, 2], [1, 2, 3])
            assert status != 0 or epochs == [1, 2, 3]
            for epoch in epochs:
                manager.load_agent(epoch)
                assert manager.load_trainer_state(epoch)["epoch"] == epoch
            assert_latest(manager, epochs[-1])
            assert_next_save_works(manager, 3 if epochs == [1, 2] else 4)
        except BaseException as error:
            error.add_note(f"at {call}:{fault}")
            raise
        outcomes[f"{'killed' if status < 0 else 'failed' if status else 'done'}, {'new' if epochs[2:] else 'old'}"] += 1
    print(f"save: {len(chosen)} points hit; afterwards: {dict(outcomes)}")
    assert outcomes["killed, old"] and outcomes["failed, old"] and outcomes["killed, new"]


@pytest.mark.parametrize("how_many", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_faults_in_a_save_over_another(faults: Faults, how_many: str) -> None:
    """Prevents a save over an epoch that exists, hit anywhere, from being resumed in part or losing both."""
    chosen = points(faults, "save again")
    chosen = some_of(chosen) if how_many == "some" else chosen
    outcomes: collections.Counter[str] = collections.Counter()
    for call, fault in chosen:
        manager, status = hit(faults, "save again", call, fault)
        try:
            found = manager.load_latest()
            assert found is not None and found[0] == 2
            (seed,) = [seed for seed in (2, 7) if differences(found[1:], (Agent(seed), state_of(seed))) == []]
            assert status != 0 or seed == 7
            assert manager.load_trainer_state(1)["epoch"] == 1
            assert_next_save_works(manager, 3)
        except BaseException as error:
            error.add_note(f"at {call}:{fault}")
            raise
        outcomes[f"{'killed' if status < 0 else 'failed' if status else 'done'}, {'new' if seed == 7 else 'old'}"] += 1
    print(f"save over another: {len(chosen)} points hit; afterwards: {dict(outcomes)}")
    assert outcomes["killed, old"] and outcomes["failed, old"] and outcomes["killed, new"]


def steps(faults: Faults, what: str, train_dir: Path) -> list[str]:
    """The calls, in order, that make durable, commit, delete and make folders: each with the name of its file."""
    calls = "fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat"
    status, log = faults.run(what, train_dir, "-y", "-e", f"trace={calls}")
    assert status == 0
    made = re.findall(r"^\d+ +([a-z]+)\w*\((.*)\) += 0$", log, re.MULTILINE)
    names = [(call, re.findall(r"[<\"]([^>\"]+)[>\"]", arguments)[-1]) for call, arguments in made]
    return [f"{call} {re.sub('[0-9a-f]{8}.tmp', 'TMP', Path(name).name)}" for call, name in names]


SAVED = [
    "fsync agent_epoch_3.pt.TMP",
    "fsync trainer_epoch_3.pt.TMP",
    "rename trainer_epoch_3.pt",
    "fsync checkpoints",
    "rename agent_epoch_3.pt",
    "fsync checkpoints",
]


def test_a_save_is_durable_step_by_step(faults: Faults, tmp_path: Path) -> None:
    """Prevents a file whose name reaches the disk before its content, and names that never do, when the power goes."""
    assert steps(faults, "save", fresh(faults, "save").folder.parent.parent) == SAVED
    made = ["mkdir td", f"fsync {tmp_path.name}", "mkdir a", "fsync td", "mkdir checkpoints", "fsync a"]
    assert steps(faults, "save", tmp_path / "td") == made + SAVED


def test_a_deletion_is_durable_step_by_step(faults: Faults) -> None:
    """Prevents an agent file from coming back without its trainer file when the power goes."""
    assert steps(faults, "retention", fresh(faults, "retention").folder.parent.parent) == [
        "unlink agent_epoch_1.pt",
        "fsync checkpoints",
        "unlink trainer_epoch_1.pt",
        "fsync checkpoints",
        "unlink agent_epoch_2.pt.TMP",
        "unlink trainer_epoch_3.pt",
        "unlink trainer_epoch_3.pt.TMP",
    ]


@pytest.mark.parametrize("how_many", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_faults_in_retention(faults: Faults, how_many: str) -> None:
    """Prevents a deletion that is hit anywhere from leaving half a pair that counts, or the newest from going."""
    chosen = points(faults, "retention")
    chosen = some_of(chosen) if how_many == "some" else chosen
    for call, fault in chosen:
        manager, _ = hit(faults, "retention", call, fault)
        try:
            assert manager.list_epochs() in ([1, 2], [2])
            assert_latest(manager, 2)
            for epoch in manager.list_epochs():
                assert manager.load_trainer_state(epoch)["epoch"] == epoch
            assert_next_save_works(manager, 3)
        except BaseException as error:
            error.add_note(f"at {call}:{fault}")
            raise
    print(f"retention: {len(chosen)} points hit")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk may not be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def assert_large(manager: TinyCheckpointManager, *epochs: int) -> None:
    assert manager.list_epochs() == list(epochs)
    for epoch in epochs:
        agent = manager.load_agent(epoch)
        assert isinstance(agent, Large) and (agent.ballast == epoch).all()
        assert manager.load_trainer_state(epoch)["epoch"] == epoch
    assert len(os.listdir(manager.folder)) == 2 * len(epochs)


def test_a_full_disk(small_disk: Path) -> None:
    """Prevents part of a checkpoint on a full disk, an error that does not say why, or one that space cannot mend."""
    manager = TinyCheckpointManager("a", small_disk)
    saver = CheckpointSaver(manager)
    for epoch in range(3):
        saver.save(Large(epoch), epoch, state_of(epoch))
    saver.wait()
    for _ in range(2):
        saver.save(Large(3), 3, state_of(3))
        with pytest.raises(
            SaveError, match=r"could not save epoch=3 in .*: OSError: \[Errno 28\] No space left on device"
        ):
            saver.wait()
        assert_large(manager, 0, 1, 2)
    for kind in ("agent", "trainer"):
        manager.file(kind, 0).unlink()
    saver.save(Large(3), 3, state_of(3))
    saver.wait()
    assert_large(manager, 1, 2, 3)


def test_a_limit_on_file_sizes(tmp_path: Path) -> None:
    """Prevents the same where no small disk may be mounted."""
    manager = TinyCheckpointManager("a", tmp_path)
    manager.save_checkpoint(Large(1), 1, state_of(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            manager.save_checkpoint(Large(2), 2, state_of(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_large(manager, 1)
    manager.save_checkpoint(Large(2), 2, state_of(2))
    assert_large(manager, 1, 2)


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_at_random(tmp_path: Path, kills: int) -> None:
    """Prevents what the matrix of calls does not see: a kill while the thread saves and the program goes on."""
    code = """
import sys
from metta.rl.saving.checkpoint_saver import CheckpointSaver
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from tests.helpers.small_checkpoints import Large, state_of

manager = TinyCheckpointManager("a", ".")
found = manager.load_latest()
epoch = 0 if found is None else found[0] + 1
saver = CheckpointSaver(manager, keep_last=2)
saver.save(Large(epoch), epoch, state_of(epoch))
saver.wait()
assert len(list(manager.folder.iterdir())) == 2 * len(manager.list_epochs())
print(epoch, flush=True)
while True:
    epoch += 1
    saver.save(Large(epoch), epoch, state_of(epoch))
"""
    manager, latest, random_times = TinyCheckpointManager("a", tmp_path), -1, random.Random(kills)
    for _ in range(kills):
        command = [sys.executable, "-W", "error", "-c", code]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            began = int(process.stdout.readline())
            assert began == latest + 1
            time.sleep(random_times.random() * 0.3)
            process.kill()
        found = manager.load_latest()
        assert found is not None and isinstance(found[1], Large)
        latest = found[0]
        assert latest >= began and (found[1].ballast == latest).all() and found[2]["epoch"] == latest
    print(f"{kills} kills while saving: {latest + 1} epochs saved, none damaged")
