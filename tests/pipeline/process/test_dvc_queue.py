"""Which worker of a DVC queue runs this process."""

import subprocess
import sys

from pipeline.process.dvc_queue import queue_worker


def queue_worker_below(number: int, workers: int) -> str:
    """What `queue_worker` returns in a child of a process with the command line of DVC's worker, beside others."""
    wait = "import sys; sys.stdin.read()"
    others = [
        subprocess.Popen([sys.executable, "-c", wait, "exp", "queue-worker", f"dvc-exp-0a1b2c-{n}@localhost"],
                         stdin=subprocess.PIPE)
        for n in range(1, workers + 1) if n != number
    ]  # fmt: skip
    ask = "from pipeline.process.dvc_queue import queue_worker; print(queue_worker())"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ask!r}], check=True)"
    name = f"dvc-exp-0a1b2c-{number}@localhost"
    try:
        return subprocess.run(
            [sys.executable, "-c", code, "exp", "queue-worker", name], capture_output=True, text=True, check=True
        ).stdout.strip()
    finally:
        for other in others:
            other.communicate()


def test_a_queue_worker_is_known_by_its_number_and_the_number_of_workers() -> None:
    assert queue_worker_below(2, 3) == "QueueWorker(number=2, workers=3)"
    assert queue_worker_below(1, 1) == "QueueWorker(number=1, workers=1)"


def test_outside_a_queue_there_is_no_queue_worker() -> None:
    assert queue_worker() is None
