"""Tables between stages: the training history (CSV) and measurements of images (Parquet)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.storage.files import atomic, reading, unusable, write_text


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write the table atomically, numbers with six significant digits."""
    write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write the table atomically, with a checksum of each page of values."""
    # The footer (names, types, positions of the columns) has no checksum. So it holds no more than needed: the
    # metadata of pandas and Arrow are left out. Damage to the rest makes the file unreadable, or renames or retypes a
    # column; dvc.lock has a digest of the whole file.
    content = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata()
    with atomic(path) as temporary:
        pq.write_table(content, temporary, write_page_checksum=True, store_schema=False)


def read_csv(path: Path, *columns: str) -> pd.DataFrame:
    """Read a CSV file with at least these columns.

    Raises:
        UserError: if it is missing, damaged or empty, or lacks one of the columns.
    """
    return _read(path, pd.read_csv, columns)


def read_parquet(path: Path, *columns: str) -> pd.DataFrame:
    """Read a Parquet file with at least these columns, and verify its checksums.

    Raises:
        UserError: if it is missing, damaged or empty, or lacks one of the columns.
    """
    return _read(path, lambda path: pq.read_table(path, page_checksum_verification=True).to_pandas(), columns)


def select(table: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    """The rows whose `column` equals `value`."""
    return pd.DataFrame(table.loc[table[column] == value])


def numbers(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """The column as float64."""
    return table[column].to_numpy(dtype=np.float64)


def finite(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """The finite numbers of the column. The evaluation has counted and reported the others."""
    values = numbers(table, column)
    return values[np.isfinite(values)]


def _read(path: Path, reader: Callable[[Path], pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    with reading(path, ValueError, OSError):  # what pandas and pyarrow raise for damaged content
        table = reader(path)
    if table.empty:
        raise unusable(path, "has no rows")
    if missing := sorted(set(columns) - set(table.columns)):
        raise unusable(path, f"has no column {', '.join(missing)}")
    return table
