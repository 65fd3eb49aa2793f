"""Everything an agent needs to act: networks and the distributions of their actions. No training, no files."""
