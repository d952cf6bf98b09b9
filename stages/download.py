"""Download: the data set named in `data.name`, verified, as one file of uint8 tensors."""

import sys

from pipeline import config, datasets, lifetime, sources
from pipeline.runtime import paths


def main() -> None:
    arguments = paths(__doc__, "data")
    settings = config.load().data

    dataset = sources.get(settings.name)
    datasets.save(arguments.data, dataset)
    height, width = dataset.shape
    print(
        f"{settings.name}: {len(dataset.train_images)} training and {len(dataset.test_images)} test images "
        f"of {height} x {width} pixels, {dataset.levels} grey levels"
    )


if __name__ == "__main__":
    sys.exit(lifetime.run(main))
