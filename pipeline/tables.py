"""The two tables that stages hand on: the history of training (CSV) and the measured images (Parquet)."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.files import atomic, write_text


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write atomically, numbers to six significant digits."""
    write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write atomically, with a digest of the content."""
    signed = table.copy(deep=False)
    signed.attrs["sha256"] = _digest(table)
    with atomic(path) as temporary:
        signed.to_parquet(temporary, index=False)


def read_csv(path: Path, *columns: str) -> pd.DataFrame:
    """Read a CSV that has these columns.

    Raises:
        UserError: when it is missing, damaged, or without them.
    """
    return _read(path, pd.read_csv, columns)


def read_parquet(path: Path, *columns: str) -> pd.DataFrame:
    """Read a Parquet file that has these columns.

    Raises:
        UserError: when it is missing, damaged, or without them.
    """
    return _read(path, _verified, columns)


def rows(table: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    """The rows in which a column has this value."""
    return pd.DataFrame(table.loc[table[column] == value])


def numbers(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """A column as float64."""
    return table[column].to_numpy(dtype=np.float64)


def finite(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """The finite numbers of a column; the evaluation has counted and reported the others."""
    values = numbers(table, column)
    return values[np.isfinite(values)]


def _verified(path: Path) -> pd.DataFrame:
    table = pd.read_parquet(path)
    if table.attrs.pop("sha256", None) != _digest(table):
        raise ValueError("its content is not what was written")
    return table


def _digest(table: pd.DataFrame) -> str:
    """SHA-256 over names, types and values."""
    types = ",".join(map(str, table.dtypes))
    return hashlib.sha256(f"{types}\n{table.to_csv(index=False)}".encode()).hexdigest()


def _read(path: Path, reader: Callable[[Path], pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = reader(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `dvc repro` to make it") from None
    except (ValueError, OSError) as error:  # pandas' and pyarrow's errors of content are ValueErrors
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged ({reason}); delete it and run `dvc repro` to make it again") from None
    if table.empty:
        raise UserError(f"{path} has no rows; delete it and run `dvc repro` to make it again")
    if missing := sorted(set(columns) - set(table.columns)):
        raise UserError(f"{path} has no column {', '.join(missing)}; delete it and run `dvc repro` to make it again")
    return table
