"""How a process ends: an error that the user can fix is one message and a non-zero exit code, without a traceback."""

import re
import signal
import sys
from collections.abc import Callable

from pipeline.errors import UserError, redacted


def print_error(message: str) -> None:
    print(message, file=sys.stderr)


def run_cli(main: Callable[[], None], report: Callable[[str], object] = print_error) -> int:
    """Run `main` and return the exit code of the process. An error that the user cannot fix is raised.

    Args:
        report: called with the message of an error that the user can fix.
    """
    try:
        main()
    except UserError as error:
        message, code = f"error: {error}", error.exit_code
    except OSError as error:
        # A full disk, a read-only folder, a missing file: the system's message names it.
        message, code = redacted(f"error: {error}"), 1
    except KeyboardInterrupt as interrupt:
        message, code = "interrupted", 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    except (MemoryError, RuntimeError) as error:
        # PyTorch raises a plain RuntimeError on a CPU, and its subclass OutOfMemoryError on a GPU.
        if not (isinstance(error, MemoryError) or re.search(r"out of memory|can't allocate memory", str(error))):
            raise
        message = "error: not enough memory; try a smaller evaluate.chunk or train.batch_size, or smaller layers"
        code = 1
    else:
        return 0
    report(message)
    return code
