"""Real faults: each ends in one message that names the file and the remedy, exit code 1, and earlier results whole."""

import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from pipeline.model.checkpoint import load_checkpoint, save_checkpoint
from stages import evaluate
from tests.stages.test_stages import CONDITIONAL
from tests.support import STAGES, Run, command, outputs, run_in_process, write_params

IMAGES = (2051).to_bytes(4, "big") + (60_000).to_bytes(4, "big") + (28).to_bytes(4, "big") * 2 + bytes(60_000 * 784)
LABELS = (2049).to_bytes(4, "big") + (60_000).to_bytes(4, "big") + bytes(60_000)


def flipped(archive: bytes) -> bytes:
    """The same with one bit in the middle flipped."""
    middle = len(archive) // 2
    return archive[:middle] + bytes([archive[middle] ^ 16]) + archive[middle + 1 :]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda: gzip.compress(IMAGES, 1)[:-1000], "truncated|damaged", id="truncated"),
        pytest.param(lambda: flipped(gzip.compress(IMAGES, 1)), "damaged|not the published", id="bit flipped"),
        pytest.param(lambda: gzip.compress(IMAGES[:-1], 1), "truncated: 47040015 of 47040016", id="too short"),
        pytest.param(lambda: gzip.compress(IMAGES + b"\0", 1), "holds more than the 47040016", id="too long"),
        pytest.param(lambda: gzip.compress(b"\1" + IMAGES[1:], 1), "not the published content", id="wrong magic"),
        pytest.param(lambda: gzip.compress(LABELS, 1), "truncated: 60008 of 47040016", id="labels named images"),
        pytest.param(lambda: gzip.compress(IMAGES, 1), "not the published content", id="other images"),
        pytest.param(lambda: gzip.compress(bytes(1 << 28), 9), "holds more than the 47040016", id="gzip bomb"),
        pytest.param(lambda: gzip.compress(gzip.compress(IMAGES, 9), 9), "truncated: ", id="compressed twice"),
        pytest.param(lambda: IMAGES, "not a gzip file|larger than", id="not compressed"),
        pytest.param(lambda: b"<!DOCTYPE html><p>Not here", "not a gzip file", id="HTML"),
        pytest.param(lambda: b"", "not a gzip file", id="empty"),
        pytest.param(lambda: None, "cannot be read", id="a folder"),
    ],
)
def test_a_wrong_data_file_is_refused(
    workspace: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], bytes | None], reason: str,
) -> None:  # fmt: skip
    write_params(workspace / "params.yaml", data__name="mnist")
    mirror = workspace / "mirror" / "train-images-idx3-ubyte.gz"
    content = make()
    if content is None:
        mirror.mkdir(parents=True)
    else:
        mirror.parent.mkdir()
        mirror.write_bytes(content)
    monkeypatch.setenv("DATA_MIRROR", str(mirror.parent))
    for scheme in ("http", "https"):  # so that no mirror answers
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    before = outputs(workspace)
    assert run("download") == 1
    message = capsys.readouterr().err
    assert re.search(rf"{mirror.parent}: .*({reason})", message), message
    assert "Three ways out" in message
    assert outputs(workspace) == before


def outs(stage: str) -> list[str]:
    """Files that a stage writes."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in STAGES[stage].get(kind, [])]
    paths = [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
    return [path for path in paths if Path(path).suffix]


def inputs(stage: str) -> list[str]:
    """Files that a stage reads."""
    return [word for word in command(stage)[3:] if Path(word).suffix and word not in outs(stage)]


# A picture is shown as it is. Text has no checksum in itself, only in dvc.lock.
BINARY = (".safetensors", ".parquet")
DAMAGES = [
    (stage, path, fault)
    for stage in STAGES
    for path in inputs(stage)
    for fault in ("missing", "truncated", "empty", "nonsense", "bit flipped")
    if Path(path).suffix != ".png" and (fault != "bit flipped" or Path(path).suffix in BINARY)
]


@pytest.mark.parametrize(("stage", "path", "fault"), DAMAGES)
def test_a_damaged_input_is_named(
    workspace: Path, run: Run, capsys: pytest.CaptureFixture[str], stage: str, path: str, fault: str
) -> None:
    file = workspace / path
    before = outputs(workspace)
    whole = file.read_bytes()
    match fault:
        case "missing":
            file.unlink()
        case "truncated":
            file.write_bytes(whole[: len(whole) * 2 // 3] if file.suffix != ".csv" else whole[:10])
        case "empty":
            file.write_bytes(b"")
        case "nonsense":
            file.write_bytes(b"\x93nonsense\xff\x00" * 50)
        case _:
            file.write_bytes(flipped(whole))
    code = run(stage)
    file.write_bytes(whole)
    assert outputs(workspace) == before
    message = capsys.readouterr().err
    if code == 0:
        assert fault == "bit flipped"  # in a byte that holds no value
    else:
        assert message.startswith("error: "), message
        assert path in message, message
        assert "dvc repro" in message, message


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


WRITES = [(stage, path) for stage in STAGES for path in outs(stage)]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "out"), WRITES)
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_full_or_read_only_disk_is_reported(
    workspace: Path, small_disk: Path, capsys: pytest.CaptureFixture[str], stage: str, out: str, fault: str
) -> None:  # fmt: skip
    target = small_disk / Path(out).name
    target.write_bytes(b"earlier")
    if fault == "full":
        with (small_disk / "other").open("wb", buffering=0) as other, pytest.raises(OSError, match="No space"):
            while True:
                other.write(bytes(1024))
    else:
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    words = [str(target) if word == out else word for word in command(stage)[3:]]
    assert run_in_process(stage, *words) == 1
    message = capsys.readouterr().err
    assert "No space left" in message if fault == "full" else "Read-only" in message, message
    assert str(small_disk) in message
    assert target.read_bytes() == b"earlier"
    assert {path.name for path in small_disk.iterdir()} <= {target.name, "other"}


@pytest.mark.parametrize("count", [2, pytest.param(9, marks=pytest.mark.slow)])
def test_images_with_a_value_that_is_not_finite_are_counted_and_shown(
    workspace: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Of nine such images all that are verified, or compared with the encoder as proposal, are among them."""
    measure = evaluate.measure

    def broken(*arguments: object) -> dict[str, object]:
        columns = measure(*arguments)  # pyright: ignore[reportArgumentType]
        columns["log_px"][:count] = columns["ess"][:count] = columns["encoder_log_px"][:count] = float("nan")
        columns["elbo"][count] = float("inf")
        columns["trusted"][: count + 1] = False
        return dict(columns)

    monkeypatch.setattr(evaluate, "measure", broken)
    write_params(workspace / "params.yaml", evaluate__comparison=9)
    assert run("evaluate") == 0
    assert f"warning: {count + 1} images have a non-finite ELBO or log p(x)" in capsys.readouterr().err
    test = json.loads((workspace / "reports/metrics/evaluate.json").read_text())["test"]
    assert (test["not_finite"], test["images"]) == (count + 1, 359 - count)
    assert ("encoder_short" in test) == (count == 2)
    table = pd.read_parquet(workspace / "reports/images.parquet")
    assert test["log_px"] == pytest.approx(table["log_px"][count + 1 :].mean(), abs=1e-4)
    for stage in ("verify", "compare", "render", "report"):
        assert run(stage) == 0, stage
    verify = json.loads((workspace / "reports/metrics/verify.json").read_text())["verify"]
    assert ("difference" in verify) == (count == 2)
    assert re.search(r"warning: \d+ differences are not finite and are excluded", capsys.readouterr().err)
    for page in ("report.html", "report.md"):
        text = (workspace / "reports" / page).read_text(encoding="utf-8")
        assert f"{count + 1} test images have a non-finite ELBO or log p(x)" in text
    pictures = pd.read_parquet("reports/pictures.parquet")
    left_out = pictures.loc[pictures["left_out"] != "", "picture"].to_list()
    assert set(left_out) - CONDITIONAL == ({"manifold"} if count == 2 else {"manifold", "gaps"})


def test_too_little_memory_is_reported_before_work(
    workspace: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(workspace / "params.yaml", model__encoder=[65536, 65536])
    before = outputs(workspace)
    assert run("train") == 1
    assert "not enough memory" in capsys.readouterr().err
    assert outputs(workspace) == before


def test_the_report_escapes_every_value(workspace: Path, run: Run) -> None:
    path = workspace / "models/vae.safetensors"
    weights, description = load_checkpoint(path)
    save_checkpoint(path, weights, description.model_copy(update={"dataset": "<script>alert(1)</script>"}))
    assert run("report") == 0
    html = (workspace / "reports/report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
