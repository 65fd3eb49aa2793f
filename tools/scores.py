#!/usr/bin/env python3
"""`metta scores`, from a checkout."""

from launch import launch

if __name__ == "__main__":
    launch("scores")
