"""To which agent a score belongs: the file that earned it, by its fingerprint, not whatever has its name now."""

import functools
import zipfile
from pathlib import Path

from metta.files.pt_file import fingerprint
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.run_folder import RUN_NAME


class AgentFiles:
    """The agent files to which a run's scores belong: by their fingerprints, read once. train_dir None: unknown."""

    def __init__(self, train_dir: Path | None, run: str):
        self._manager: TinyCheckpointManager | None = None
        if train_dir is not None and RUN_NAME.fullmatch(run):
            self._manager = TinyCheckpointManager(run, train_dir)
        self._crc = functools.cache(lambda epoch: self._manager and file_crc(self._manager.file("agent", epoch)))

    def may_be(self, epoch: int, crc: str) -> bool:
        """Whether no other agent file lies in the place of the one with this fingerprint."""
        return self._crc(epoch) in (None, crc)

    def has(self, epoch: int, crc: str) -> bool:
        """Whether it is there; of a run without any checkpoint, whose scores are all that is left, every one counts."""
        return self._crc(epoch) == crc or self._manager is None or not self._manager.exists()


def file_crc(path: Path) -> str | None:
    """The fingerprint of an agent file, "" if it is damaged, None if there is none."""
    try:
        return fingerprint(path)
    except FileNotFoundError:
        return None
    except (OSError, zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
        return ""
