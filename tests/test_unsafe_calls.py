"""Ruff refuses calls that would run code from a file, hand text to a shell, or open a server to the network."""

import json
import subprocess
import sys

import pytest

from tests.support import ROOT


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("import pickle", "TID251"),
        ("from pickle import loads", "TID251"),
        ("import joblib", "TID251"),
        ("import torch\n\ntorch.load('x')", "TID251"),
        ("import yaml\n\nyaml.load('x', Loader=yaml.Loader)", "S506"),
        ("eval('1')", "S307"),
        ("exec('1')", "S102"),
        ("import subprocess\n\nsubprocess.run('ls', shell=True)", "S602"),
        ("import os\n\nos.system('ls')", "S605"),
        ("host = '0.0.0.0'", "S104"),
    ],
)
def test_an_unsafe_call_is_refused(code: str, rule: str) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--output-format=json", "--stdin-filename=pipeline/x.py", "-"]
    found = subprocess.run(command, cwd=ROOT, input=code, capture_output=True, text=True, check=False)
    assert rule in {problem["code"] for problem in json.loads(found.stdout)}
