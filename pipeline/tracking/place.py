"""Where the MLflow store and its artifacts are: both follow the main repository."""

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse

from pipeline.errors import UserError
from pipeline.storage.files import main_repository

FOLDER = "mlruns"
ARTIFACTS = f"{FOLDER}/artifacts"
WORKSPACE = r"/.*/\.dvc/tmp/exps/.*"  # a temporary workspace of DVC
DEFAULT = f"/{FOLDER}/0"  # of MLflow's experiment `Default`, in the folder where the database was created
# The columns in which MLflow keeps absolute paths of artifacts.
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)


def store_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or a SQLite database in mlruns. Relative paths start at the main repository.

    Raises:
        UserError: if it is an address of SQLite that names no file.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{FOLDER}/mlflow.db"
    parts = urlparse(uri)
    if parts.scheme in ("", "file"):
        return (main_repository() / (unquote(parts.path) if parts.scheme else uri)).as_uri()
    if not parts.scheme.startswith("sqlite"):
        return uri
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except ArgumentError:
        url = None
    path = url and url.database
    if not url or not path or path.startswith((":memory:", "file:")) or ("?" in uri and not url.query):
        raise UserError(
            f"MLFLOW_TRACKING_URI = {uri} names no file; write sqlite:///PATH, with %25 for a percent sign and %3F for "
            "a question mark in PATH"
        )
    url = url.set(database=os.path.normpath(main_repository() / path))
    if "%" in (address := url.render_as_string()) and url.drivername == "sqlite":
        # For "sqlite:" MLflow makes the folder of the database, and it takes the encoded name for the name.
        return url.set(drivername="sqlite+pysqlite").render_as_string()
    return address


def artifacts() -> Path | None:
    """Folder of the artifacts if the store is a SQLite database, which has no server that keeps them.

    It is in the main repository if the database is, else beside the database.
    """
    file = database()
    return file and (main_repository() if _is_ours(file) else file.parent) / ARTIFACTS


def follow_repository() -> None:
    """Correct the paths of artifacts in a database of the main repository, which may have been moved or copied.

    Without this, MLflow would write to the folder where the repository was when the experiment was created, and the
    experiment `Default` would keep its artifacts in the temporary workspace in which the database was created.
    """
    if not ((file := database()) and _is_ours(file)):
        return
    here = main_repository()
    with closing(sqlite3.connect(file)) as store, store:
        places = [place or "" for (place,) in store.execute("select artifact_location from experiments")]
        ours = {place.removesuffix(f"/{ARTIFACTS}") for place in places if re.fullmatch(f"file:.*/{ARTIFACTS}", place)}
        paths = {unquote(home.removeprefix("file://")) for home in ours}
        paths |= {place.removesuffix(DEFAULT) for place in places if re.fullmatch(WORKSPACE + DEFAULT, place)}
        moved = dict.fromkeys(ours, here.as_uri()) | dict.fromkeys(paths, str(here))
        for old, new in moved.items():
            for table, column in COLUMNS if new != old else ():
                query = f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?"  # noqa: S608
                store.execute(query, (new, len(old) + 1, len(old) + 1, f"{old}/"))


def database() -> Path | None:
    """The file of the store; None if it is not a SQLite database."""
    if not (uri := store_uri()).startswith("sqlite"):
        return None
    from sqlalchemy import make_url

    return Path(make_url(uri).database or "")


def _is_ours(file: Path) -> bool:
    return file.is_relative_to(main_repository())
