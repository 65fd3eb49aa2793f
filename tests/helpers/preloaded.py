"""What a process has imported that `commands.result_of` forks: as it has one thread, so have those forked from it."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import metta.eval.policy_evaluator
import metta.rl.trainer  # noqa: F401
