"""A run's copy in object storage: its checkpoints go there once they are durable here, and come from there elsewhere.

    mirror/RUN/checkpoints/trainer_epoch_100.pt    created first
    mirror/RUN/checkpoints/agent_epoch_100.pt      created last: commits the pair, as in the run folder
    mirror/RUN/trainer.lock                        who trains the run: created, then only swapped for what is known

A file of a checkpoint is created, never overwritten. Who finds another one there and still holds the lock, swaps it for
its own; who does not hold the lock any more ends there.
"""

import re
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self

from metta.errors import CheckpointError, MettaError, RunLockedError, UnsoundError, enumeration, one_line, say
from metta.files.durable import rename_over, written_beside
from metta.files.pt_file import check_pair
from metta.object_store import Lease, ObjectStore, Stored, StoreError
from metta.rl.tiny_checkpoint_manager import AGENT_FILE, TinyCheckpointManager
from metta.run_folder import CURVES, Folder, RunFolder

PAUSES_S = (1.0, 60.0)  # between attempts to upload: the first, and the longest; each is twice the one before
LOOK_S = 0.5  # from one look for new checkpoints here to the next
LAST_S = 60.0  # that the end of training waits for what is not uploaded
EXTRA = re.compile(r"(?!checkpoints/|trainer\.lock$).+(?<!\.tmp)")  # what belongs to a run beside its checkpoints


class NotUploadedError(MettaError):
    """Something never arrived in the object storage. It is on this disk."""

    exit_status = 1


class Mirror:
    """One run's copy. As a context it is filled, and nobody else fills it meanwhile. StoreError where it cannot be."""

    def __init__(self, url: str, run: str, train_dir: Folder, brings: bool = True):
        """brings: whether entering it brings the newest checkpoint, to go on from."""
        self._run, self._folder, self.manager = run, RunFolder(train_dir, run), TinyCheckpointManager(run, train_dir)
        self._store, self._brings = ObjectStore(url), brings
        self._lease = Lease(self._store, f"{run}/{self._folder.lock.name}", f"run {run}")
        self._due, self._closing, self._end = threading.Event(), threading.Event(), threading.Event()
        self.there = self._store.files(run)  # by their paths in train_dir

    def list_epochs(self) -> list[int]:
        """As `TinyCheckpointManager.list_epochs`, of what is there."""
        names = (AGENT_FILE.fullmatch(key.removeprefix(f"{self._run}/checkpoints/")) for key in self.there)
        return sorted(int(name[1]) for name in names if name)

    def bring_newest(self) -> None:
        """Download the newest sound pair if it is newer than all here. CheckpointError where it is another run."""
        self.require_same_run()
        here, there = self.manager.list_epochs(), self.list_epochs()
        newer = [epoch for epoch in there if self._brings and epoch > max(here, default=-1)]
        for epoch in reversed(newer):
            try:
                self.bring(epoch)
                return self._say(f"brought epoch {epoch} from {self._store.name}")
            except UnsoundError:
                self._say(f"epoch {epoch} in {self._store.name} is damaged; trying the one before it")
        if newer and not here:
            raise CheckpointError(f"no checkpoint of run {self._run} in {self._store.name} is sound, of {len(there)}")

    def require_same_run(self) -> None:
        """CheckpointError where the newest agent file that is here and there is not the same."""
        for epoch in sorted({*self.manager.list_epochs()} & {*self.list_epochs()})[-1:]:
            file = self.manager.file("agent", epoch)
            if self._store.read(self._key(file))[0] != file.read_bytes():
                raise CheckpointError(f"{self._store.name} has another run {self._run}: its {file.name} is not {file}")

    def bring(self, epoch: int) -> None:
        """Download a checkpoint, CRCs checked, and name its agent file last. UnsoundError unless it is whole."""
        agent, trainer = (self.manager.file(kind, epoch) for kind in ("agent", "trainer"))
        try:
            with (
                written_beside(agent, partial(self._store.download, self._key(agent))) as new_agent,
                written_beside(trainer, partial(self._store.download, self._key(trainer))) as new_trainer,
            ):
                check_pair(new_agent, new_trainer)
                rename_over(new_trainer, trainer)
                rename_over(new_agent, agent)
        except FileNotFoundError as error:
            raise UnsoundError(f"epoch {epoch} of run {self._run} in {self._store.name} is not whole") from error

    def bring_extras(self, names: re.Pattern[str] = EXTRA) -> int:
        """Download what else belongs to the run and is not here, or older and other; returns how many files."""
        due = [key for key in self.there if names.fullmatch(key.removeprefix(f"{self._run}/"))]
        paths = [path for key in due if self.there[key].replaces(Stored.of(path := self._folder.path.parent / key))]
        for path in paths:
            with written_beside(path, partial(self._store.download, self._key(path))) as new:
                rename_over(new, path)
        return len(paths)

    def __enter__(self) -> Self:
        self._lease.acquire(self._say)
        try:
            self.there = self._store.files(self._run)  # as the holder before has left them
            self.bring_newest()
            if self._brings:  # the parts of the curves so far, which the next one follows
                self.bring_extras(CURVES)
        except BaseException:
            self._lease.release()
            raise
        self._uploading = threading.Thread(target=self._upload_on, name="mirror", daemon=True)
        self._uploading.start()
        return self

    def check(self) -> None:
        """RunLockedError where another has taken the run."""
        self._lease.check()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """Wait up to LAST_S for what is not uploaded. NotUploadedError where some of it never was."""
        self._closing.set()
        self._due.set()
        self._uploading.join(LAST_S)
        self._end.set()
        self._lease.release()
        if missing := self._missing():
            how = f"never arrived: `metta push mirror={self._store.name} run={self._run}` sends it"
            wrong = self._lease.lost or NotUploadedError(f"{missing} of run {self._run} {how}")
            if error is None:
                raise wrong
            self._say(str(wrong))

    def _missing(self) -> str:
        """Name the checkpoints that are not there."""
        epochs = sorted({*self.manager.list_epochs()} - {*self.list_epochs()})
        return f"epoch {enumeration(epochs)}" if epochs else ""

    def _upload_on(self) -> None:
        """Upload what is new until the end. What fails is said once, and tried again after ever longer pauses."""
        pause_s, failing = PAUSES_S[0], False
        while not self._end.is_set():
            if not self._due.wait(LOOK_S) and not self._missing():
                continue
            self._due.clear()
            last = self._closing.is_set()
            try:
                self._upload()
                pause_s, failing = PAUSES_S[0], False
                if last:
                    return
            except RunLockedError:
                return
            except (MettaError, OSError) as error:
                if not failing:
                    what = self._missing() or "the curves"
                    self._say(f"{what} not uploaded yet, training goes on and it is tried again: {error}")
                failing = True
                (self._end if self._closing.is_set() else self._closing).wait(pause_s)
                pause_s = PAUSES_S[0] if self._closing.is_set() else min(2 * pause_s, PAUSES_S[1])
                self._due.set()

    def _upload(self) -> None:
        """Upload the checkpoints that are not there, the newest first, then what else is new or has grown."""
        with suppress(StoreError):  # who cannot be reached has not been taken over
            self._lease.beat()
        failed: list[Exception] = []
        for epoch in sorted({*self.manager.list_epochs()} - {*self.list_epochs()}, reverse=True):
            try:
                for path in (self.manager.file(kind, epoch) for kind in ("trainer", "agent")):
                    with suppress(FileNotFoundError):  # deleted meanwhile, as there is a newer one
                        self._create(path)
            except (StoreError, OSError) as error:
                failed.append(error)
                if len(failed) == 2:  # the store is away; one file that it does not take keeps no other from it
                    break
        if failed:
            raise failed[0]
        for path in self._folder.path.rglob("*"):
            key, file = self._key(path), Stored.of(path)
            extra = EXTRA.fullmatch(key.removeprefix(f"{self._run}/"))
            if extra and file is not None and file.replaces(self.there.get(key)):
                self._store.overwrite(key, path)
                self.there[key] = file._replace(written=0)  # ours: replaced whenever it grows

    def _create(self, path: Path) -> None:
        """Upload a file of a checkpoint. RunLockedError where there is one already and another has the run."""
        try:
            self._store.create(self._key(path), path)
        except FileExistsError:
            there, tag = self._store.read(self._key(path))
            self._lease.beat()
            if there != (content := path.read_bytes()):
                self._store.swap(self._key(path), content, tag)
        self.there[self._key(path)] = Stored(0, 0)  # never replaced but by `_create`

    def _key(self, path: Path) -> str:
        return path.relative_to(self._folder.path.parent).as_posix()

    def _say(self, text: str) -> None:
        say(one_line(f"run={self._run} {text}"))
