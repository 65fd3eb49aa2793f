"""The checkpoints of a run: two files for each epoch, and the file names are the only metadata.

    train_dir/RUN/checkpoints/trainer_epoch_100.pt    torch.save(trainer_state): named first
    train_dir/RUN/checkpoints/agent_epoch_100.pt      torch.save(agent): named last, its presence commits the pair

`list_epochs` is the one definition of what a checkpoint is. CheckpointError is the one error for a checkpoint that
cannot be read. torch is imported only to load or to save.
"""

import os
import re
import warnings
from pathlib import Path
from typing import Any

from metta.errors import CheckpointError, UnsoundError
from metta.files.pt_file import load, load_pair, load_trainer_state, save_pair
from metta.run_folder import Folder, RunFolder

AGENT_FILE = re.compile(r"agent_epoch_(0|[1-9][0-9]{0,17})\.pt")  # eval.db counts in 64 bits


class TinyCheckpointManager:
    """Saves, finds and loads the checkpoints of one run. UserError for a bad run name.

    What is loaded lies on the CPU, or where `map_location` (as in torch.load) says.
    """

    def __init__(self, run: str, train_dir: Folder = "./train_dir"):
        self.folder = RunFolder(train_dir, run).checkpoints

    def file(self, kind: str, epoch: int, must_exist: bool = False) -> Path:
        """Where the "agent" or the "trainer" file of `epoch` is, or would be unless the checkpoint must exist."""
        if must_exist and (epoch not in (have := self.list_epochs()) or isinstance(epoch, float)):
            raise CheckpointError(f"no checkpoint for {epoch=} in {self.folder}: have {str(have)[1:-1] or 'none'}")
        return self.folder / f"{kind}_epoch_{epoch:d}.pt"

    def list_epochs(self) -> list[int]:
        """The epochs of all files, and of all links, named exactly agent_epoch_N.pt, as ascending numbers."""
        found = os.scandir(self.folder) if self.folder.is_dir() else ()
        names = [file.name for file in found if file.name.startswith("agent") and (file.is_file() or file.is_symlink())]
        return sorted([int(name[1]) for name in map(AGENT_FILE.fullmatch, names) if name])

    def exists(self) -> bool:
        return len(self.list_epochs()) > 0

    def load_agent(self, epoch: int, map_location: Any = "cpu") -> Any:
        """The agent of `epoch`, every CRC of its file checked. CheckpointError if it cannot be read."""
        return load(self.file("agent", epoch, must_exist=True), map_location)

    def load_trainer_state(self, epoch: int, map_location: Any = "cpu") -> dict[str, Any]:
        """The trainer state of `epoch`, likewise. CheckpointError also if it was not saved with the agent there."""
        return load_trainer_state(self.file("agent", epoch, True), self.file("trainer", epoch), map_location)

    def load_latest_agent(self, map_location: Any = "cpu") -> Any | None:
        """The newest sound agent; None if there is no checkpoint. Warns of unsound ones, as `load_latest`."""
        return self._newest(lambda epoch: load(self.file("agent", epoch), map_location))

    def load_latest(self, map_location: Any = "cpu") -> tuple[int, Any, dict[str, Any]] | None:
        """(epoch, agent, trainer state) of the newest sound pair; None if there is no checkpoint.

        Newer ones that are damaged or incomplete are named in a warning each. If none is sound: CheckpointError.
        """
        return self._newest(lambda n: (n, *load_pair(self.file("agent", n), self.file("trainer", n), map_location)))

    def save_checkpoint(self, agent: Any, epoch: int, trainer_state: dict[str, Any]) -> None:
        """Saves the pair, or raises and leaves what was there as it was. Wrappers (torch.compile, DDP) are left out.

        An epoch that exists is replaced, at the instant when its trainer file is; what links lead to stays as it is.
        """
        if not 0 <= epoch < 10**18:
            raise ValueError(f"epoch={epoch}: epochs count from 0 and have up to 18 digits")
        save_pair(self.file("agent", epoch), self.file("trainer", epoch), agent, trainer_state)

    def _newest(self, load: Any) -> Any:
        for epoch in reversed(epochs := self.list_epochs()):
            try:
                return load(epoch)
            except UnsoundError as error:
                if epoch not in self.list_epochs():  # deleted meanwhile, when there was a newer one
                    return self._newest(load)
                warnings.warn(f"{error}; trying the checkpoint before it", stacklevel=3)
        if epochs:
            raise CheckpointError(f"none of the {len(epochs)} checkpoints in {self.folder} can be read")


def run_exists(run: str, train_dir: Folder = "./train_dir") -> bool:
    return TinyCheckpointManager(run, train_dir).exists()


def load_latest_agent(run: str, train_dir: Folder = "./train_dir") -> Any | None:
    return TinyCheckpointManager(run, train_dir).load_latest_agent()


def save_checkpoint(agent: Any, run: str, epoch: int, trainer_state: dict, train_dir: Folder = "./train_dir") -> None:
    TinyCheckpointManager(run, train_dir).save_checkpoint(agent, epoch, trainer_state)
