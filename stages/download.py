"""Download: the data set named in `data.name`, verified, as one file of uint8 tensors."""

import sys

from pipeline.config import load_params
from pipeline.data.dataset import save_dataset
from pipeline.data.own import get_own
from pipeline.data.sources import get_dataset
from pipeline.process.cli import parse_paths
from pipeline.process.lifecycle import run_stage


def main() -> None:
    arguments = parse_paths(__doc__, "data")
    settings = load_params().data

    if settings.path is not None and settings.sha256 is not None:  # as the parameters require for data.name = own
        dataset = get_own(settings.path, settings.sha256, settings.seed)
    else:
        dataset = get_dataset(settings.name)
    save_dataset(arguments.data, dataset)
    print(f"{settings.name}: {dataset}")


if __name__ == "__main__":
    sys.exit(run_stage(main))
