"""Files written whole or not at all, and .pt files read with every byte checked. Knows no reinforcement learning."""
