"""`python -m pipeline.tracking ui | sync`: MLflow's pages, and what it has missed.

ui    MLflow's pages for the store in use, on the loopback interface.
sync  Send what outages and killed stages have left, and the state of dvc.lock, to the store; twice adds nothing.
"""

import argparse
import os
import sys

from pipeline.errors import UserError, guarded
from pipeline.files import main_repository
from pipeline.tracking.publish import publish
from pipeline.tracking.sink import ENVIRONMENT, Sink, store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["ui", "sync"])
    {"ui": ui, "sync": sync}[parser.parse_args().action]()


def ui() -> None:
    if not (uri := store()).startswith("sqlite:"):
        print(f"runs are kept by {uri}: open that address")
        return
    (main_repository() / "mlruns").mkdir(exist_ok=True)
    os.environ.update(ENVIRONMENT)
    address = ["--host", "127.0.0.1", "--port", "5000"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, *address])  # noqa: S606


def sync() -> None:
    try:
        sink = Sink()
        entries = sink.catch_up()
        run_id = publish(sink)
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(
            f"MLflow at {store()} cannot be used: {str(error).splitlines()[0]}; what was kept stays kept"
        ) from None
    print(
        f"{store()}: {entries} stages of the outbox sent; run {run_id} is the state of dvc.lock; {sink.changes} changes"
    )


if __name__ == "__main__":
    sys.exit(guarded(main))
