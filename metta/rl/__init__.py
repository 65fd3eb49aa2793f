"""Training: the loop, what it is configured with, and the checkpoints of a run. The rest has a package below."""
