"""Faults made for real: each ends in one message that names file and remedy, a non-zero exit, earlier results whole."""

import gzip
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from ruamel.yaml import YAML
from test_contract import STAGES, command
from test_stages import Run, outputs, run

from benchmarks.queue import sh

__all__ = ["run"]

IMAGES = (2051).to_bytes(4, "big") + (60_000).to_bytes(4, "big") + (28).to_bytes(4, "big") * 2 + bytes(60_000 * 784)
LABELS = (2049).to_bytes(4, "big") + (60_000).to_bytes(4, "big") + bytes(60_000)


@pytest.fixture
def done(_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the outputs of a small run, which is the current one."""
    for name in ("data", "models", "reports"):
        shutil.copytree(_repository / name, tmp_path / name)
    shutil.copy(_repository / "params.yaml", tmp_path)
    change(tmp_path, tracking__mode="off")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def change(folder: Path, **settings: object) -> None:
    yaml = YAML()
    content = yaml.load(folder / "params.yaml")
    for name, value in settings.items():
        section, key = name.split("__")
        content[section][key] = value
    yaml.dump(content, folder / "params.yaml")


def flipped(archive: bytes) -> bytes:
    middle = len(archive) // 2
    return archive[:middle] + bytes([archive[middle] ^ 16]) + archive[middle + 1 :]


@pytest.mark.parametrize(
    ("make", "told"),
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
    done: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], bytes | None], told: str,
) -> None:  # fmt: skip
    import re

    change(done, data__name="mnist")
    mirror = done / "mirror" / "train-images-idx3-ubyte.gz"
    content = make()
    if content is None:
        mirror.mkdir(parents=True)
    else:
        mirror.parent.mkdir()
        mirror.write_bytes(content)
    monkeypatch.setenv("DATA_MIRROR", str(mirror.parent))
    for scheme in ("http", "https"):  # no mirror answers
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    before = outputs(done)
    assert run("download") == 1
    message = capsys.readouterr().err
    assert re.search(rf"{mirror.parent}: .*({told})", message), message
    assert "Three ways out" in message
    assert outputs(done) == before


def file_inputs(stage: str) -> list[str]:
    made = {
        next(iter(o)) if isinstance(o, dict) else o
        for k in ("outs", "metrics", "plots")
        for o in STAGES[stage].get(k, [])
    }
    return [word for word in command(stage)[3:] if not word.startswith("--") and word not in made and Path(word).suffix]


# A picture is shown as it is; text has no checksum of its own, but one in dvc.lock.
BINARY = (".safetensors", ".parquet")
DAMAGES = [
    (stage, path, fault)
    for stage in STAGES
    for path in file_inputs(stage)
    for fault in ("missing", "truncated", "empty", "nonsense", "bit flipped")
    if Path(path).suffix != ".png" and (fault != "bit flipped" or Path(path).suffix in BINARY)
]


@pytest.mark.parametrize(("stage", "path", "fault"), DAMAGES)
def test_a_damaged_input_is_named(
    done: Path, run: Run, capsys: pytest.CaptureFixture[str], stage: str, path: str, fault: str
) -> None:
    file = done / path
    before = outputs(done)
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
    if run(stage) == 0:
        # The bit was in no value: then nothing may come of it.
        file.write_bytes(whole)
        assert fault == "bit flipped"
        assert outputs(done) == before
        return
    message = capsys.readouterr().err
    assert message.startswith("error: "), message
    assert path in message, message
    assert "dvc repro" in message
    if fault != "missing":
        file.write_bytes(whole)
    assert outputs(done) == {name: content for name, content in before.items() if name != path or fault != "missing"}


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


def outs(stage: str) -> list[str]:
    return [word for word in command(stage)[3:] if not word.startswith("--") and word not in file_inputs(stage)]


WRITES = [(stage, path) for stage in STAGES for path in outs(stage) if Path(path).suffix]


def run_writing_to(stage: str, out: str, target: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The stage with one of its outputs elsewhere."""
    import importlib
    import sys

    from pipeline.errors import guarded

    for code in ("pipeline", "stages"):
        Path(code).symlink_to(ROOT / code)
    words = [str(target) if word == out else word for word in command(stage)[3:]]
    monkeypatch.setattr(sys, "argv", [stage, *words])
    return guarded(importlib.import_module(f"stages.{stage}").main)


@pytest.mark.parametrize(("stage", "out"), WRITES)
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_disk_that_cannot_be_written_is_told(
    done: Path, small_disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    stage: str, out: str, fault: str,
) -> None:  # fmt: skip
    target = small_disk / Path(out).name
    target.write_bytes(b"earlier")
    if fault == "full":
        with (small_disk / "other").open("wb", buffering=0) as other, pytest.raises(OSError, match="No space"):
            while True:
                other.write(bytes(1024))
    else:
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert run_writing_to(stage, out, target, monkeypatch) == 1
    message = capsys.readouterr().err
    assert "No space left" in message if fault == "full" else "Read-only" in message, message
    assert str(small_disk) in message
    assert target.read_bytes() == b"earlier"
    assert {path.name for path in small_disk.iterdir()} <= {target.name, "other"}


def test_images_without_a_finite_number_are_counted_and_shown(
    done: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages import evaluate

    measure = evaluate.measure

    def broken(*arguments: object) -> dict[str, object]:
        columns = measure(*arguments)  # pyright: ignore[reportArgumentType]
        columns["log_px"][:2] = float("nan")
        columns["elbo"][2] = float("inf")
        columns["trusted"][:3] = False
        return dict(columns)

    monkeypatch.setattr(evaluate, "measure", broken)
    assert run("evaluate") == 0
    assert "warning: 3 images have no finite number" in capsys.readouterr().err
    test = json.loads((done / "reports/metrics/evaluate.json").read_text())["test"]
    assert test["not_finite"] == 3
    assert test["images"] == 357
    table = pd.read_parquet(done / "reports/images.parquet")
    assert test["log_px"] == pytest.approx(table["log_px"][3:].mean(), abs=1e-4)
    for stage in ("verify", "compare", "render", "report"):
        assert run(stage) == 0, stage
    for page in ("report.html", "report.md"):
        assert "3 test images have no finite ELBO or log p(x)" in (done / "reports" / page).read_text(encoding="utf-8")


def test_no_finite_number_at_all_is_an_error(done: Path) -> None:
    from pipeline.errors import UserError
    from pipeline.likelihood.evaluation import summary

    table = pd.read_parquet(done / "reports/images.parquet").assign(log_px=np.nan)
    with pytest.raises(UserError, match=r"no test image has a finite .*model\.sigma"):
        summary(table)


def test_too_little_memory_is_told(
    done: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(done, model__encoder=[65536, 65536])
    before = outputs(done)
    assert run("train") == 1
    assert "there is not enough memory" in capsys.readouterr().err
    assert outputs(done) == before


def test_an_edited_metric_is_seen_and_made_again(clone: Path) -> None:
    path = clone / "reports/metrics/train.json"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace("1", "2", 1), encoding="utf-8")
    assert "Stage 'train' didn't change" not in sh(clone, "dvc", "repro")
    assert path.read_text(encoding="utf-8") == whole
    assert sh(clone, "git", "status", "--porcelain") == ""


def sources() -> Iterator[tuple[Path, str]]:
    for name in sh(ROOT, "git", "ls-files", "pipeline", "stages", "studies", "benchmarks", "tools").splitlines():
        if (ROOT / name).is_file():
            yield Path(name), (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "pattern",
    [r"\bpickle\b(?!:)", r"torch\.load\((?!.*weights_only=True)", r"yaml\.(unsafe_)?load\(.*Loader", r"typ=.unsafe",
     r"shell=True", r"(?<!\.)\beval\(", r"\bexec\(", r"0\.0\.0\.0", r"os\.system"],
)  # fmt: skip
def test_no_unsafe_call(pattern: str) -> None:
    import re

    for path, text in sources():
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("#", '"""')))
        assert not re.search(pattern, code), f"{path}: {pattern}"


def test_every_value_of_the_report_is_escaped(done: Path, run: Run) -> None:
    from pipeline import checkpoint

    path = done / "models/vae.safetensors"
    weights, description = checkpoint.load(path)
    checkpoint.save(path, weights, description.model_copy(update={"dataset": "<script>alert(1)</script>"}))
    assert run("report") == 0
    html = (done / "reports/report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_servers_listen_on_the_loopback_interface() -> None:
    for path in ("tools/server", "pipeline/tracking/__main__.py"):
        text = (ROOT / path).read_text(encoding="utf-8")
        assert "127.0.0.1" in text
        assert "0.0.0.0" not in text
