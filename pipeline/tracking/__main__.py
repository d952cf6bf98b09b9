"""`python -m pipeline.tracking ui | sync`: MLflow's pages, and making the store equal to the files.

ui    Show MLflow's pages of the store in use on the loopback interface.
sync  Publish the workspace and all of DVC's experiments. A second time it changes nothing.
"""

import argparse
import os
import sys

from pipeline.errors import UserError
from pipeline.process.exit import run_cli
from pipeline.storage.files import main_repository
from pipeline.tracking.mlflow_store import ENVIRONMENT, Store, store_uri
from pipeline.tracking.publish import experiments, publish
from pipeline.tracking.results import of_workspace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["ui", "sync"])
    {"ui": ui, "sync": sync}[parser.parse_args().action]()


def ui() -> None:
    if not (uri := store_uri()).startswith("sqlite:"):
        print(f"the runs are in {uri}: open that address")
        return
    (main_repository() / "mlruns").mkdir(exist_ok=True)
    os.environ.update(ENVIRONMENT)
    address = ["--host", "127.0.0.1", "--port", "5000"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, *address])  # noqa: S606


def sync() -> None:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # longer than a stage waits
    try:
        store = Store()
        count = 0
        for results in experiments():
            publish(store, results)
            count += 1
        publish(store, of_workspace())
    except (UserError, OSError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"MLflow at {store_uri()} cannot be used: {reason}; run this again when the store is available"
        ) from None
    print(f"{store_uri()}: the workspace and {count} of DVC's experiments are published; {store.changes} changes")


if __name__ == "__main__":
    sys.exit(run_cli(main))
