"""Download: the data set named in `data.name`, verified, as one file of uint8 tensors."""

import sys

from pipeline.config import load_params
from pipeline.data.dataset import save_dataset
from pipeline.data.sources import get_dataset
from pipeline.process.cli import parse_paths
from pipeline.process.lifecycle import run_stage


def main() -> None:
    arguments = parse_paths(__doc__, "data")
    settings = load_params().data

    dataset = get_dataset(settings.name)
    save_dataset(arguments.data, dataset)
    height, width = dataset.shape
    print(
        f"{settings.name}: {len(dataset.train_images)} training and {len(dataset.test_images)} test images "
        f"of {height} x {width} pixels, {dataset.levels} grey levels"
    )


if __name__ == "__main__":
    sys.exit(run_stage(main))
