#!/usr/bin/env python3
"""`metta push`, from a checkout."""

from launch import launch

if __name__ == "__main__":
    launch("push")
