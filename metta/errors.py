"""The one error for a checkpoint or agent file that cannot be used, below everything that raises it."""


class CheckpointError(Exception):
    """This file cannot be read as a checkpoint: one line that says which, what is wrong, what exists instead."""
