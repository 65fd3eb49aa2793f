"""`metta pull`: brings runs from object storage: all that is not here already, or older."""

from collections.abc import Sequence

from metta.errors import UnsoundError, one_line, say
from metta.object_store import ObjectStore
from metta.rl.saving.mirror import Mirror
from metta.rl.saving.run_lock import RunLock
from metta.run_folder import RunFolder
from metta.tools.cli.arguments import parse
from metta.tools.cli.config import PullConfig
from metta.tools.cli.targets import matching_runs


def main(argv: Sequence[str]) -> int:
    """Returns the exit status; 1: a checkpoint there is not sound."""
    config, _ = parse(PullConfig, argv, "metta pull")
    store = ObjectStore(config.mirror)
    known, status = store.folders(), 0
    for run in [run for name in config.run.split(",") for run in matching_runs(name, store.name, known)]:
        folder = RunFolder(config.train_dir, run)
        with folder.cleaned_up(), RunLock(folder.lock):
            brought, unsound = pull(Mirror(config.mirror, run, config.train_dir))
        print(f"{run}: brought {brought} files to {folder.path}", flush=True)
        for error in unsound:
            say(f"metta pull: {one_line(error)}")
            status = 1
    return status


def pull(mirror: Mirror) -> tuple[int, list[UnsoundError]]:
    """Download what is not here; returns how many files that were, and what is wrong with those that cannot be.

    CheckpointError where another run of that name is here.
    """
    mirror.require_same_run()
    brought, unsound = 0, list[UnsoundError]()
    for epoch in sorted({*mirror.list_epochs()} - {*mirror.manager.list_epochs()}):
        try:
            mirror.bring(epoch)
            brought += 2
        except UnsoundError as error:
            unsound.append(error)
    return brought + mirror.bring_extras(), unsound
