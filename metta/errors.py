"""Errors that more than one layer raises or answers, below all of them."""


class MettaError(Exception):
    """One line for the user: what is wrong, where, and what exists instead. `metta` prints it and exits."""

    exit_status = 2


class UserError(MettaError, ValueError):
    """A key, name or setting that cannot be what it was given as."""


class CheckpointError(Exception):
    """This file cannot be read as a checkpoint: one line that says which, what is wrong, what exists instead."""


class EnvError(RuntimeError):
    """An environment, or the worker process that held it, failed: one line that says which, where and how."""
