"""`python -m tools.dvc ARGUMENTS`: DVC, also in a folder whose path contains %, ? or letters outside ASCII.

DVC (3.67) hands the path of an experiment's temporary workspace to git as an unquoted URL, and writes it as ASCII.
There `dvc exp run --temp` fails, and in a folder such as `a%20b` it succeeds and loses the results.
"""

import sys
from functools import partialmethod
from pathlib import Path

from configobj import ConfigObj
from dvc.cli import main
from dvc.repo.experiments.executor.local import BaseLocalExecutor

# pyright: reportAttributeAccessIssue=false

if __name__ == "__main__":
    BaseLocalExecutor.git_url = property(lambda executor: str(Path(executor.root_dir).resolve()))
    ConfigObj.__init__ = partialmethod(ConfigObj.__init__, default_encoding="utf-8")
    sys.exit(main())
