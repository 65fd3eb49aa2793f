"""Checkpoints behind the training loop's back: copies, retention, the run's lock. Knows no learning."""
