"""Which worker of `dvc queue start` runs this process. It relies on how DVC names its workers, which is internal."""

import re
from typing import NamedTuple

import psutil


class QueueWorker(NamedTuple):
    """Worker `number` (from 1) of the `workers` that `dvc queue start -j WORKERS` started."""

    number: int
    workers: int


def queue_worker() -> QueueWorker | None:
    """The queue worker that this process belongs to; None outside a queue.

    DVC calls its workers dvc-exp-REPOSITORY-NUMBER@localhost.
    """
    names = [name for process in psutil.Process().parents() if (name := _worker_name(process))]
    if not names:
        return None
    repository, _, number = names[0].rpartition("-")
    siblings = {
        name for process in psutil.process_iter() if (name := _worker_name(process)).startswith(f"{repository}-")
    }
    return QueueWorker(int(number), max(1, len(siblings)))


def _worker_name(process: psutil.Process) -> str:
    """The queue worker's name without its host; empty for other processes."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return ""
    names = [word for word in command if re.fullmatch(r"dvc-exp-\w+-\d+@\w+", word)]
    return names[0].partition("@")[0] if "queue-worker" in command and names else ""
