"""Tables give back what was written, have equal bytes for equal content, and damage is found."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import UserError
from pipeline.storage.tables import finite, numbers, read_csv, read_parquet, select, write_csv, write_parquet

RANDOM = np.random.default_rng(0)
TABLE = pd.DataFrame({
    "label": RANDOM.integers(0, 10, 50).astype(np.uint8),
    "kind": ["test", "simulated"] * 25,
    "log_px": RANDOM.normal(size=50),
    "khat": [np.nan, np.inf, -np.inf, 0.5, 0.25] * 10,
    "trusted": RANDOM.random(50) < 0.5,
})  # fmt: skip


def write(folder: Path, table: pd.DataFrame = TABLE) -> Path:
    path = folder / "images.parquet"
    write_parquet(path, table)
    return path


def test_a_parquet_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    pd.testing.assert_frame_equal(read_parquet(write(tmp_path), *TABLE.columns), TABLE)
    # Any other reader of Parquet can read it too.
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "images.parquet"), TABLE)


def test_the_index_of_a_table_is_not_stored(tmp_path: Path) -> None:
    part = TABLE.iloc[10:20]
    pd.testing.assert_frame_equal(read_parquet(write(tmp_path, part)), part.reset_index(drop=True))


def test_equal_tables_give_equal_bytes_under_any_name(tmp_path: Path) -> None:
    for number in range(3):
        write_parquet(tmp_path / f"{number}.parquet", TABLE.copy())
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_flipped_bit_among_the_values_is_found_or_harmless(tmp_path: Path) -> None:
    path = write(tmp_path)
    whole = path.read_bytes()
    footer = 8 + int.from_bytes(whole[-8:-4], "little")
    refused = 0
    places = range(0, len(whole) - footer, 3)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            pd.testing.assert_frame_equal(read_parquet(path), TABLE)
        except UserError as error:
            assert "is damaged" in str(error)
            refused += 1
    assert refused > 0.8 * len(places)  # a bit of a page's header may have no effect


def test_a_flipped_bit_in_the_footer_gives_a_table_or_one_message(tmp_path: Path) -> None:
    """The footer has no checksum, so a column may get another name or type; but no damage gives a traceback."""
    path = write(tmp_path, pd.DataFrame({"label": TABLE["label"].head(3)}))
    whole = path.read_bytes()
    footer = 8 + int.from_bytes(whole[-8:-4], "little")
    for place in range(len(whole) - footer, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            read_parquet(path, "label")
        except UserError as error:
            assert "dvc repro" in str(error)


def test_a_parquet_file_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    with pytest.raises(UserError, match=r"images\.parquet is missing.*dvc repro"):
        read_parquet(path)
    whole = write(tmp_path).read_bytes()
    for damaged in (whole[:-7], whole[: len(whole) // 2], whole[:4], b"", b"\x93nonsense\xff\x00" * 50):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"images\.parquet is damaged.*dvc repro"):
            read_parquet(path)


def test_missing_columns_and_rows_are_named(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(UserError, match=r"has no column elbo, ess; .*dvc repro"):
        read_parquet(path, "ess", "label", "elbo")
    with pytest.raises(UserError, match=r"has no rows; .*dvc repro"):
        read_parquet(write(tmp_path, TABLE.head(0)), "label")


def test_csv_numbers_have_six_digits_and_integers_all_of_theirs(tmp_path: Path) -> None:
    write_csv(tmp_path / "history.csv", pd.DataFrame({"epoch": [12345678], "elbo": [-1234.56789], "best": [True]}))
    assert (tmp_path / "history.csv").read_bytes() == b"epoch,elbo,best\n12345678,-1234.57,True\n"
    assert read_csv(tmp_path / "history.csv", "elbo")["epoch"].tolist() == [12345678]


@pytest.mark.parametrize("content", [b"", b"epoch,elbo\n1,2,3,4\n1\n\xff", b"epo"])
def test_a_damaged_csv_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "history.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"history\.csv .*dvc repro"):
        read_csv(path, "epoch")


def test_columns_are_selected_as_numbers() -> None:
    simulated = select(TABLE, "kind", "simulated")
    assert set(simulated["kind"]) == {"simulated"}
    assert len(simulated) == 25
    labels = numbers(TABLE, "label")
    assert labels.dtype == np.float64
    np.testing.assert_array_equal(labels, TABLE["label"])
    np.testing.assert_array_equal(finite(TABLE, "khat"), [0.5, 0.25] * 10)
