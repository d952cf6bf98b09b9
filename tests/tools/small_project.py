"""A small DVC project, to try its tools in unusual places."""

import shutil
from pathlib import Path

from tests.support import ROOT
from tools.clones import sh

DVC_YAML = """
stages:
  train:
    cmd: {command}
    params: [epochs]
    outs: [model.txt]
"""


def make_project(top: Path, folder: str, command: str = "cp params.yaml model.txt") -> Path:
    """A git repository `top`, whose `folder` is a DVC project of one stage, with these tools; returns that folder."""
    project = top / folder
    shutil.copytree(ROOT / "tools", project / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (project / "dvc.yaml").write_text(DVC_YAML.format(command=command), encoding="utf-8")
    (project / "params.yaml").write_text("epochs: 1\n", encoding="utf-8")
    sh(top, "git", "init", "-q", "-b", "main")
    sh(top, "git", "config", "user.email", "nobody@example.org")
    sh(top, "git", "config", "user.name", "Nobody")
    sh(project, "dvc", "init", "-q", *([] if project == top else ["--subdir"]))
    commit(project)
    return project


def commit(project: Path) -> None:
    sh(project, "git", "add", ".")
    sh(project, "git", "commit", "-q", "-m", "commit")
