"""From checkpoints to scores, and what may be concluded from them. Never imports the trainer."""
