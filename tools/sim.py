#!/usr/bin/env python3
"""`metta sim`, from a checkout."""

from launch import launch

if __name__ == "__main__":
    launch("sim")
