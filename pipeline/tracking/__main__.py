"""`python -m pipeline.tracking ui | sync`: MLflow's pages, and making the store equal to the files.

ui    Show MLflow's pages of the store in use on the loopback interface, and print their address.
sync  Publish the workspace and all of DVC's experiments. A second time it changes nothing.
"""

import argparse
import os
import socket
import sys
from collections.abc import Sequence

from pipeline.errors import UserError, redacted
from pipeline.process.exit import run_cli
from pipeline.tracking.mlflow_store import Store, explain, is_refusal
from pipeline.tracking.place import store_uri
from pipeline.tracking.publish import experiments, publish
from pipeline.tracking.results import Results, of_workspace

HOST = "127.0.0.1"
PORTS = range(5000, 5010)  # the first that is free is used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["ui", "sync"])
    parser.add_argument("--port", type=int, help="of MLflow's pages (default: the first free one from 5000 on)")
    arguments = parser.parse_args()
    try:
        ui(arguments.port) if arguments.action == "ui" else sync()
    except UserError:
        raise
    except OSError as error:  # a file, or a server that keeps files: the message may have the server's address
        raise UserError(str(error)) from None
    except Exception as error:
        raise UserError(explain(error)) from None


def ui(port: int | None) -> None:
    """Replace this process by MLflow's server.

    Raises:
        UserError: if the port cannot be used. MLflow itself would end with exit code 0.
    """
    if (uri := store_uri()).startswith("http"):
        print(f"the runs are in {redacted(uri)}: open that address")
        return
    port = free_port([port] if port is not None else PORTS)
    try:
        page = Store().page
    except UserError as error:  # the experiment was deleted, and MLflow's pages can restore it
        print(f"warning: {error}", file=sys.stderr)
        page = ""
    # MLflow prints its address too, but that one leads to a page about language models.
    print(f"open http://{HOST}:{port}/{page}", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(port), "--workers", "1"]
    # Not an argument: every user of the machine can read those, and the address may have a password.
    os.execve(command[0], command, os.environ | {"MLFLOW_BACKEND_STORE_URI": uri})  # noqa: S606


def free_port(ports: Sequence[int]) -> int:
    """The first of these ports that can be used.

    Raises:
        UserError: if there is none.
    """
    reasons: list[str] = []
    for port in ports:
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
                probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            reasons.append(str(error))
        else:
            return port
    if len(ports) > 1:
        raise UserError(
            f"ports {ports[0]} to {ports[-1]} cannot be used ({reasons[0]}); name another: make ui PORT={ports[-1] + 1}"
        )
    raise UserError(f"port {ports[0]} cannot be used ({reasons[0]}); `make ui` without PORT takes the first free one")


def sync() -> None:
    """Publish what the store lacks. What the store refuses is reported, and the rest is published.

    Raises:
        UserError: at the end, if the store refused something.
        Exception: what MLflow raises in an outage, and `of_workspace`; what was published before is reported.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # longer than a stage waits
    store, refused = Store(), []

    def publishes(results: Results) -> bool:
        try:
            publish(store, results)
        except Exception as error:
            if not is_refusal(error):
                raise
            refused.append(f"{results.name}: {explain(error)}")
            return False
        return True

    count, workspace = 0, False
    try:
        for results in experiments():
            count += publishes(results)
        workspace = publishes(of_workspace())
    finally:
        published = f"{'the workspace and ' * workspace}{count} of DVC's experiments are published"
        print(f"{redacted(store_uri())}: {published}; {store.changes} changes")
    if refused:
        raise UserError("\n".join(["MLflow refuses some results:", *refused]))


if __name__ == "__main__":
    sys.exit(run_cli(main))
