"""Child processes that hold an object, memory that they share, and signals. Knows no reinforcement learning."""
