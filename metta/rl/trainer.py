"""The training loop: resume, collect, learn, save. `train` is the whole of it; what it works on is one_run.py's."""

from collections.abc import Callable, Collection
from contextlib import closing, nullcontext, suppress

from metta.errors import MettaError, SaveError
from metta.processes.stop_signals import StopSignals
from metta.rl.display.display import Display
from metta.rl.display.evaluation import EvaluationBeside
from metta.rl.display.progress import exchange_cost
from metta.rl.learning.random_state import unchanged
from metta.rl.learning.user_functions import EpochCallback, OnEpoch, named
from metta.rl.one_run import Trainer, load_trainer, new_trainer
from metta.rl.saving.checkpoint_saver import CheckpointSaver
from metta.rl.saving.mirror import Mirror
from metta.rl.saving.run_lock import RunLock
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig, given_keys
from metta.run_folder import RunFolder
from metta.user_code import remembered

FINISHING = "finishing the epoch and saving; once more to leave at once"
LEAVING = "all is saved; leaving, once more to leave at once"


def train(
    config: TrainConfig,
    on_epoch: OnEpoch | None = None,
    given: frozenset[str] | None = None,
    keep_epochs: Callable[[], Collection[int]] = tuple,
    last_evaluation: Callable[[], str] = lambda: "none",
) -> int:
    """Train config.run to its total_timesteps, from its newest checkpoint where it has one.

    on_epoch: called with the trainer and the epoch's scalars, to which it may add; True ends training. Takes the place
    of config.on_epoch.
    given: the keys that the user typed; of a run that exists only those are compared with its own configuration. None:
    those whose values are not the defaults.
    keep_epochs: epochs that retention must spare; last_evaluation: what the display says of the newest score.
    NotUploadedError where it all ended well, but for what never arrived in config.mirror.
    Returns the exit status: 0 complete, 128 + its number after a signal, 1 when a checkpoint could not be saved.
    """
    run = RunFolder(config.train_dir, config.run)
    manager = TinyCheckpointManager(config.run, config.train_dir)
    given = given_keys(config) if given is None else given
    with (
        unchanged(),
        remembered(),
        run.cleaned_up(),
        RunLock(run.lock) as lock,
        nullcontext() if config.mirror is None else Mirror(config.mirror, config.run, config.train_dir) as mirror,
        StopSignals(FINISHING, lambda: f"left at once; {newest_saved(manager)}") as signals,
        closing(load_trainer(manager, config, given) or new_trainer(config, given)) as trainer,
        closing(EvaluationBeside(trainer.config, is_new=not manager.exists())) as evaluation,
    ):
        callback = EpochCallback(on_epoch or trainer.config.on_epoch)
        saver = CheckpointSaver(manager, trainer.config.keep_last, keep_epochs)
        display = Display(trainer.config, run, trainer.agent_steps, last_evaluation)
        try:
            return run_epochs(trainer, callback, saver, signals, display, evaluation, lambda: check_held(lock, mirror))
        except SaveError as error:
            display.fail(f"{error}; {unsaved(trainer, saver, 'with room made, ')}")
            return 1
        except MettaError as error:
            display.stop("stopped")
            raise type(error)(f"{error}; {unsaved(trainer, saver)}") from error


def run_epochs(
    trainer: Trainer,
    on_epoch: EpochCallback,
    saver: CheckpointSaver,
    signals: StopSignals,
    display: Display,
    evaluation: EvaluationBeside,
    check_run: Callable[[], None],
) -> int:
    """Train until the run is complete, or on_epoch or a signal asks to stop; returns the exit status."""
    if trainer.epoch == 0 or not saver.manager.exists():
        with named(trainer.config, "agent", "optimizer"):
            saver.save(trainer.agent, trainer.epoch, trainer.state_dict())
    was_complete = trainer.complete
    if not was_complete:
        display.start()
    evaluation.start()
    while not (trainer.complete or on_epoch.ended or signals.received is not None):
        scalars = trainer.run_epoch()
        signals.received = signals.received or trainer.crew.signal
        with trainer.timers("on_epoch"):
            on_epoch(trainer, scalars)
        display.update(trainer.epoch, trainer.agent_steps, scalars, trainer.timers.seconds)
        check_run()
        saver.check()
        evaluation.check()
        due = trainer.epoch % trainer.config.checkpoint_interval == 0
        if due or trainer.complete or on_epoch.ended or signals.received is not None:
            with trainer.timers("save"):
                saver.save(trainer.agent, trainer.epoch, trainer.state_dict())
            display.saved(trainer.epoch)
    saver.wait()
    signals.first = LEAVING
    if on_epoch.error is not None:
        raise on_epoch.error
    if was_complete:
        how, more = "is complete", "a larger total_timesteps= trains it further"
    else:
        stopped = "stopped by on_epoch" if on_epoch.ended else "stopped"
        how = "complete" if trainer.complete else f"{stopped} and saved; the same command goes on"
        more = exchange_cost(trainer.timers.seconds)
    display.stop(f"{how}: epoch {trainer.epoch}, {trainer.agent_steps:,} agent steps" + (more and f"; {more}"))
    evaluation.finish(trainer.epoch, hurried=lambda: signals.received is not None)
    return 0 if signals.received is None else 128 + signals.received


def check_held(lock: RunLock, mirror: Mirror | None) -> None:
    """RunLockedError where this run, or its copy in object storage, is another trainer's by now."""
    with suppress(OSError):  # who cannot ask has lost nothing yet
        lock.check()
    if mirror is not None:
        mirror.check()


def newest_saved(manager: TinyCheckpointManager) -> str:
    epoch = max(manager.list_epochs(), default=None)
    return "nothing is saved" if epoch is None else f"epoch {epoch} is the newest saved"


def unsaved(trainer: Trainer, saver: CheckpointSaver, condition: str = "") -> str:
    """How many epochs are lost, once the save that is under way has ended, and from where the run goes on."""
    with suppress(SaveError):
        saver.wait()
    committed = max(saver.manager.list_epochs(), default=None)
    if committed is None:
        return f"nothing is saved: {condition}the same command begins anew"
    if trainer.epoch == committed:
        return f"epoch {committed} is saved: the same command goes on from there"
    return f"{trainer.epoch - committed} epochs are unsaved: {condition}the same command goes on from epoch {committed}"
