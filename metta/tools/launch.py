"""`metta launch`: `metta train` in several ranks of this machine, which torchrun starts."""

import os
import sys
from collections.abc import Sequence

from metta.errors import UserError
from metta.rl.defaults import help_table
from metta.tools.cli.arguments import parse
from metta.tools.cli.config import LaunchConfig


def main(argv: Sequence[str]) -> int:
    config, _ = parse(LaunchConfig, argv, "metta launch", help_table)
    nproc = config.nproc or os.cpu_count() or 1
    if config.num_shards is not None and config.num_shards % nproc:
        raise UserError(f"num_shards={config.num_shards} cannot be dealt to nproc={nproc} ranks: it must be a multiple")
    own = [argument for argument in argv if argument.partition("=")[0] not in ("nproc", "max_restarts")]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={nproc}"]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does, which says so in four lines
    sys.stdout.flush()
    restarts = f"--max-restarts={config.max_restarts}"
    os.execv(sys.executable, [sys.executable, *torchrun, restarts, "-m", "metta.tools.main", "train", *own])
