"""Child processes that hold an object, and memory that they share. Knows no reinforcement learning."""
