"""The processes of a stage: how work is shared, and what the collectives return."""

import os
import subprocess
import sys
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


COLLECTIVES = """
import sys

import torch

from pipeline.process.distributed import join
from pipeline.process.launcher import launch
from pipeline.process.lifecycle import run_stage


def main():
    if launch(2, torch.device("cpu")):
        return
    with join(torch.device("cpu")) as group:
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


sys.exit(run_stage(main))
"""


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
    (tmp_path / "collectives.py").write_text(COLLECTIVES, encoding="utf-8")
    paths = f"{tmp_path}{os.pathsep}{ROOT}"
    result = subprocess.run(
        [sys.executable, *launcher, "collectives"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "2"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    threads = 1 if launcher == ["-m"] else 2  # the launcher divides the threads among its workers
    assert result.stdout.splitlines() == [f"done {threads}"]
    assert [path.name for path in (tmp_path / ".scratch").iterdir()] == ["collectives.lock"]
