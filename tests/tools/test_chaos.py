"""Kills at random times, on a small scale: `make chaos` makes thirty."""

import json

import pytest

from tests.support import ROOT
from tools.clones import sh


@pytest.mark.slow
def test_kills_at_random_times_change_no_output() -> None:
    options = ["--kills", "3", "--data", "digits", "--shortest", "3", "--longest", "9"]
    output = sh(ROOT, "python", "-m", "tools.chaos", *options)
    assert json.loads(output.splitlines()[-1]) == {"kills": 3, "seed": 0, "faults": []}
