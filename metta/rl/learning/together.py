"""Training in the ranks that torchrun has started: the first one trains, and the others do what it asks them to."""

from collections.abc import Callable
from contextlib import closing

from metta.envs.by_value import unpack
from metta.errors import MettaError, one_line
from metta.files import portable_pickle
from metta.machine import identity, make_deterministic, pick_device, set_threads
from metta.processes.ranks import Ranks
from metta.processes.stop_signals import StopSignals
from metta.rl.learning.crew import Crew


def train_together(first: Callable[[], int]) -> int:
    """Join the other ranks; the first one calls `first`. Returns the exit status.

    What goes wrong in any rank ends all of them, and one of them says it: the first one if it can.
    """
    with closing(Ranks(identity())) as ranks:
        try:
            if ranks.rank > 0:
                return follow(ranks)
            status = first()
            ranks.broadcast()  # nothing: it was the last call
            return status
        except MettaError as error:
            ranks.fail(error.exit_status, one_line(error))
            if ranks.speaks:
                raise
            raise SystemExit(error.exit_status) from None
        except BaseException:
            ranks.fail(1, "failed, as its traceback says")
            raise


def follow(ranks: Ranks) -> int:
    """Do what the first rank asks for, until it asks for nothing; a signal is passed on to it."""
    started = ranks.broadcast()
    if started is None:
        return 0
    with StopSignals() as signals:
        env, threads, pickled = started
        set_threads(threads)
        unpack(env)
        config, agent = portable_pickle.loads(pickled)
        device = pick_device(config.device)
        make_deterministic(device)
        with closing(Crew(config, agent.to(device))) as crew:
            while call := ranks.broadcast():
                crew.follow(call, signals.received)
    return 0
