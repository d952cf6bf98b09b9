"""The processes of a stage: how work is shared, and what the collectives return."""

import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pytest
import torch

from pipeline.process.distributed import SINGLE, Group
from tests.support import ROOT


@pytest.mark.parametrize(("items", "size"), [(10, 3), (1, 2), (0, 2), (8, 4)])
def test_all_processes_together_have_all_items(items: int, size: int) -> None:
    numbers = list(range(items))
    shards = [numbers[Group(rank, size).shard(items)] for rank in range(size)]
    assert list(chain.from_iterable(shards)) == numbers
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert sorted(chain.from_iterable(Group(rank, size).round_robin(numbers) for rank in range(size))) == numbers


def test_with_one_process_collectives_do_nothing() -> None:
    values = {"a": torch.arange(3)}
    assert SINGLE.gather(values) == [values]
    assert SINGLE.broadcast(None) is None
    assert SINGLE.shard(5) == slice(0, 5)
    assert SINGLE.all_reduce_max(7) == 7
    SINGLE.all_reduce_sum_(values["a"])
    assert values["a"].tolist() == [0, 1, 2]


SCRIPT = """
import sys
import time
from datetime import timedelta

import torch

from pipeline.process import distributed
from pipeline.process.launcher import launch
from pipeline.process.lifecycle import run_stage


def exchange(group):
    assert group.size == 2
    parts = group.gather({"mine": torch.full((group.rank + 1,), group.rank)} if group.rank else {})
    assert parts[0] == {} and parts[1]["mine"].tolist() == [1, 1]
    state = ({"w": torch.tensor([1.5, float("nan")])}, {"epoch": 3, "totals": [0.1]})
    tensors, numbers = group.broadcast(state if group.rank == 0 else None)
    assert torch.equal(tensors["w"].isnan(), torch.tensor([False, True])) and numbers == state[1]
    assert group.broadcast(None) is None
    values = torch.tensor([1.0, 2.0])
    group.all_reduce_sum_(values)
    assert values.tolist() == [2.0, 4.0]
    assert group.all_reduce_max(5 - group.rank) == 5
    print("done", torch.get_num_threads(), flush=True)


def hang(group):
    if group.rank == 1:
        time.sleep(60)
    group.all_reduce_max(0)


def main():
    if launch(2, torch.device("cpu")):
        return
    if sys.argv[1] == "hang":
        distributed.TIMEOUT = timedelta(seconds=4)
    with distributed.join(torch.device("cpu")) as group:
        globals()[sys.argv[1]](group)


sys.exit(run_stage(main))
"""


def run_processes(folder: Path, action: str, launcher: Sequence[str] = ("-m",)) -> "subprocess.CompletedProcess[str]":
    """Run two processes that do one of the actions of `SCRIPT`."""
    (folder / "processes.py").write_text(SCRIPT, encoding="utf-8")
    paths = f"{folder}{os.pathsep}{ROOT}"
    return subprocess.run(
        [sys.executable, *launcher, "processes", action],
        cwd=folder, env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "2"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(["-m"], id="started by the stage"),
        pytest.param(
            ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"],
            marks=pytest.mark.slow,
            id="started by torchrun, as on a cluster",
        ),
    ],
)
def test_two_processes_exchange_tensors_and_print_once(tmp_path: Path, launcher: list[str]) -> None:
    result = run_processes(tmp_path, "exchange", launcher)
    assert result.returncode == 0, result.stderr
    threads = 1 if launcher == ["-m"] else 2  # the launcher divides the threads among its workers
    assert result.stdout.splitlines() == [f"done {threads}"]
    assert [path.name for path in (tmp_path / ".scratch").iterdir()] == ["processes.lock"]


@pytest.mark.slow
def test_a_process_that_hangs_is_reported_after_a_limit(tmp_path: Path) -> None:
    result = run_processes(tmp_path, "hang")
    assert result.returncode == os.EX_TEMPFAIL
    assert result.stderr.startswith("error: another process of this stage did not answer for 0:00:04: it hangs, or")
    assert result.stderr.count("\n") == 1
