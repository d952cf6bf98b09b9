"""A user's mistake ends in one clear message and a non-zero exit code, never in a traceback."""

import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class UserError(Exception):
    """Something that the user can mend: the message names what is wrong and what to do."""

    exit_code = 1


class Told(NamedTuple):
    """How a process ended: what it has to say to the user, and its exit code."""

    message: str
    code: int

    def write(self, path: Path) -> None:
        """Leave it for the process that started this one, as PyTorch's launcher expects it; whole or not at all."""
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"message": self.message, "timestamp": 0, "code": self.code}), encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Told":
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(content["message"], content["code"])


def guarded(main: Callable[[], None]) -> int:
    """Run `main`; return its exit code, with what a user can mend told in one message."""
    told = outcome(main)
    if told.message:
        print(told.message, file=sys.stderr)
    return told.code


def outcome(main: Callable[[], None]) -> Told:
    """Run `main`, and say how that ended; what a user cannot mend is raised."""
    try:
        main()
    except UserError as error:
        return Told(f"error: {error}", error.exit_code)
    except OSError as error:
        # A full disk, a read-only folder, a missing file: the system's own words name it.
        return Told(f"error: {error}", 1)
    except KeyboardInterrupt as interruption:
        return Told("interrupted", 128 + (interruption.args[0] if interruption.args else signal.SIGINT))
    except (MemoryError, RuntimeError) as error:
        # PyTorch's error on the CPU is a RuntimeError like any other; on a GPU it is OutOfMemoryError, one of those.
        if not (isinstance(error, MemoryError) or re.search(r"out of memory|can't allocate memory", str(error))):
            raise
        return Told(
            "error: there is not enough memory; try a smaller evaluate.chunk or train.batch_size, or smaller layers",
            1,
        )
    return Told("", 0)
