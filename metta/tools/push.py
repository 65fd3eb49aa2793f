"""`metta push`: sends runs to object storage: all that is not there already, or older."""

from collections.abc import Sequence

from metta.rl.saving.mirror import Mirror
from metta.tools.cli.arguments import parse
from metta.tools.cli.config import PushConfig
from metta.tools.cli.targets import list_runs, matching_runs


def main(argv: Sequence[str]) -> int:
    config, _ = parse(PushConfig, argv, "metta push")
    known = list_runs(config.train_dir)
    for run in [run for name in config.run.split(",") for run in matching_runs(name, config.train_dir, known)]:
        mirror = Mirror(config.mirror, run, config.train_dir, brings=False)
        before = mirror.list_epochs()
        with mirror:
            pass
        sent = len(mirror.list_epochs()) - len(before)
        print(f"{run}: sent {sent} checkpoints, {len(before)} were there", flush=True)
    return 0
