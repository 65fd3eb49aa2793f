"""Errors that more than one layer raises or answers, below all of them."""


class CheckpointError(Exception):
    """This file cannot be read as a checkpoint: one line that says which, what is wrong, what exists instead."""


class EnvError(RuntimeError):
    """An environment, or the worker process that held it, failed: one line that says which, where and how."""
