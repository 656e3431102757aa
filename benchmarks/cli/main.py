"""The `detco` command: runs a row of COMMANDS and reports bad input in one line with exit status
2."""

import importlib
import io
import os
import shlex
import sys
from collections.abc import Callable
from typing import Any

from detco.common.errors import InputError, told

from ..run.provenance import own_version
from . import commands
from .parser import refuse

NO_MEMORY = "can't allocate memory"  # torch's words


def main(argv: list[str] | None = None) -> int:
    """Run a command and return the exit status: 0, 1 (work failed), 2 (bad
    input), 130 (interrupted)."""
    argv = sys.argv[1:] if argv is None else argv
    _print_anything()
    # torch: large tensors in huge pages, far fewer page faults
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    asked = [*argv[1:], "--help"] if argv[:1] in ([], ["help"]) else argv
    args = commands.parser(own_version()).parse_args(asked)
    args.again = shlex.join(["detco", *argv])
    args.json = getattr(args, "json", False)
    try:
        status = function_of(args.call)(args)
        sys.stdout.flush()
        return status
    except InputError as error:
        return refuse(str(error))
    except KeyboardInterrupt:
        print("detco: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `detco ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a file in the place of a folder, no rights, a full disk
        return refuse(told(error))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and NO_MEMORY not in str(error):
            raise
        return refuse("not enough memory for this; ask for less of it, or for smaller ones")


def _print_anything() -> None:
    """Print characters that the terminal's encoding lacks (LANG=C) as escapes instead of
    failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def function_of(call: str) -> Callable[[Any], int]:
    """The function of a row of COMMANDS ("module:function" below benchmarks),
    imported when needed."""
    module, _, name = call.partition(":")
    return getattr(importlib.import_module(f"detco.benchmarks.{module}"), name)


if __name__ == "__main__":
    sys.exit(main())
