"""Experience and what is learned from it: rollouts, PPO, the optimiser, their processes. Knows no file."""
