"""`python -m detco`, also under torchrun: the command."""

import sys

from detco.benchmarks.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
