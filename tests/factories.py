"""What several tests make: records, suites, jobs; and where the checkout lies."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
