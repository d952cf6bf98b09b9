"""A user's mistake ends in one clear message and a non-zero exit code, never in a traceback."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something that the user can mend: the message names what is wrong and what to do."""

    exit_code = 1


def guarded(main: Callable[[], None]) -> int:
    """Run a stage's `main`; return its exit code, with a `UserError` or `OSError` told in one message."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        # A full disk, a read-only folder, a missing file: the system's own words name it.
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
