#!/usr/bin/env python3
"""`metta pull`, from a checkout."""

from launch import launch

if __name__ == "__main__":
    launch("pull")
