"""What several tests make, by subject; tests import from here, never from one another."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
