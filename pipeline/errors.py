"""A user's mistake ends in one clear message and a non-zero exit code, never in a traceback."""

import re
import signal
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something that the user can mend: the message names what is wrong and what to do."""

    exit_code = 1


def guarded(main: Callable[[], None]) -> int:
    """Run `main`; return its exit code, with what a user can mend told in one message."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        # A full disk, a read-only folder, a missing file: the system's own words name it.
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        print("interrupted", file=sys.stderr)
        return 128 + (interruption.args[0] if interruption.args else signal.SIGINT)
    except (MemoryError, RuntimeError) as error:
        # PyTorch's error on the CPU is a RuntimeError like any other; on a GPU it is OutOfMemoryError, one of those.
        if not (isinstance(error, MemoryError) or re.search(r"out of memory|can't allocate memory", str(error))):
            raise
        print(
            "error: there is not enough memory; try a smaller evaluate.chunk or train.batch_size, or smaller layers",
            file=sys.stderr,
        )
        return 1
    return 0
