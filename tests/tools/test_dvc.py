"""DVC's temporary workspaces in folders with unusual names."""

from pathlib import Path

import pytest

from tests.tools.small_project import make_project
from tools.clones import sh


@pytest.mark.slow
def test_a_temporary_experiment_keeps_its_results_in_a_folder_with_any_name(tmp_path: Path) -> None:
    project = make_project(tmp_path / "é a?b%20c#d", ".")
    sh(project, "python", "-m", "tools.dvc", "exp", "run", "--temp", "--name", "two", "-S", "epochs=2")
    sh(project, "dvc", "get", "-q", ".", "model.txt", "--rev", "two", "-o", "found.txt")
    assert (project / "found.txt").read_text(encoding="utf-8") == "epochs: 2\n"
