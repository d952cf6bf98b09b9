"""Use a trained model: draw images, or reconstruct, encode or measure given ones.

    python -m pipeline.use draw sevens.png --digit 7
    python -m pipeline.use reconstruct my-digits/ reconstructions.png
    python -m pipeline.use encode my-digits/ codes.csv
    python -m pipeline.use measure my-digits/

IMAGES is a folder of PNG or JPEG files (with a folder for each class, or without), one such file, an .npz file with an
array `images`, an IDX file, or data/images.safetensors for the test images of the data set. They need the size and the
levels of the images that the model was trained on; nothing is rescaled.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from pipeline.model.checkpoint import TrainedModel
from pipeline.process.device import make_deterministic
from pipeline.process.exit import run_cli
from pipeline.use.files import read_images, write_images, write_table
from pipeline.use.functions import MODEL, draw, encode, load, measure, reconstruct


def main() -> None:
    arguments = parse(sys.argv[1:])
    make_deterministic(0)
    arguments.run(load(arguments.model), arguments)


def run_draw(model: TrainedModel, arguments: argparse.Namespace) -> None:
    images = draw(model, arguments.count, arguments.digit, arguments.seed)
    write_images(arguments.out, images, model.vae.images.grey_levels)


def run_reconstruct(model: TrainedModel, arguments: argparse.Namespace) -> None:
    given = read_images(arguments.images, model.vae.images, arguments.first)
    images = reconstruct(model, given.images, asked(arguments, given.labels, len(given.images)))
    write_images(arguments.out, images, model.vae.images.grey_levels, above=given.images)


def run_encode(model: TrainedModel, arguments: argparse.Namespace) -> None:
    given = read_images(arguments.images, model.vae.images, arguments.first)
    mean, deviation = encode(model, given.images, asked(arguments, given.labels, len(given.images)))
    table = {f"mean_{i}": values for i, values in enumerate(mean.T.numpy())}
    table |= {f"sd_{i}": values for i, values in enumerate(deviation.T.numpy())}
    write_table(arguments.out, pd.DataFrame({"image": given.names, **table}))


def run_measure(model: TrainedModel, arguments: argparse.Namespace) -> None:
    given = read_images(arguments.images, model.vae.images, arguments.first)
    table = measure(model, given.images, arguments.seed)
    table.insert(0, "image", given.names)
    write_table(arguments.out, table)


def asked(arguments: argparse.Namespace, labels: list[int] | None, images: int) -> list[int] | None:
    """The label of each image: the digit of the command line, or else those of the files."""
    return labels if arguments.digit is None else [arguments.digit] * images


def parse(words: list[str]) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--model", default=MODEL, metavar="MODEL", help="a file, or a DVC experiment, branch or commit (%(default)s)"
    )
    parser = argparse.ArgumentParser(
        "python -m pipeline.use", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    count, image_out, table_out = (
        {"type": positive, "metavar": "N"},
        "a .png grid, an .npz, or a folder",
        "a .csv or .parquet file; without it the table is printed",
    )

    verb = verbs.add_parser("draw", parents=[common], help="draw images from the prior")
    verb.add_argument("out", type=Path, metavar="OUT", help=image_out)
    verb.add_argument("--count", default=50, help="number of images (%(default)s)", **count)
    verb.add_argument(
        "--digit", type=int, metavar="D", help="the class, of a model with labels; all in turn without it"
    )
    verb.add_argument("--seed", type=int, default=0, metavar="S", help="other images for another seed (%(default)s)")
    verb.set_defaults(run=run_draw)

    for name, run, out, text in (
        ("reconstruct", run_reconstruct, image_out, "encode and decode images"),
        ("encode", run_encode, table_out, "means and standard deviations of q(z | x)"),
        ("measure", run_measure, table_out, "log p(x) of each image, with its error and verdict"),
    ):
        verb = verbs.add_parser(name, parents=[common], help=text)
        verb.add_argument("images", type=Path, metavar="IMAGES", help="a folder, an .npz, IDX or .safetensors file")
        verb.add_argument("out", type=Path, metavar="OUT", nargs=None if name == "reconstruct" else "?", help=out)
        verb.add_argument("--first", help="only the first N images", **count)
        if name == "measure":
            verb.add_argument("--seed", type=int, default=1, metavar="S", help="of the noise (%(default)s)")
        else:
            verb.add_argument("--digit", type=int, metavar="D", help="the class of all images, if the files do not say")
        verb.set_defaults(run=run)
    return parser.parse_args(words)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1 is needed")
    return number


if __name__ == "__main__":
    sys.exit(run_cli(main))
