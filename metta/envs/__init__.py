"""Environments, and many of them in lockstep. Nothing here knows of agents or learning."""
