"""Helpers of several tests, by subject. Test modules import from here, never from one another."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
