"""The table of the report about the model's samples: which numbers it has, and what they mean.

Stage sample measures them of the samples and, with `_real` and `_train`, of test and training images.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        key: of the number in the metrics of stage sample.
        factor: 100 for a share that is shown in per cent.
        digits: decimals that are shown.
        unit: follows the number.
        meaning: follows the name in the HTML version.
    """

    name: str
    key: str
    factor: float
    digits: int
    unit: str
    meaning: str


def _share(name: str, key: str, meaning: str) -> Row:
    return Row(name, key, 100.0, 1, " %", meaning)


def _number(name: str, key: str, digits: int, meaning: str) -> Row:
    return Row(name, key, 1.0, digits, "", meaning)


SAMPLE_ROWS = (
    _share("recognised", "recognised", "the judge gives one class a probability of at least 0.9"),
    _share(
        "asked for and got", "asked_for", "the judge sees the class that was asked for; of real images: its accuracy"
    ),
    _share(
        "spread over the classes", "class_spread", "share that would have to change class to match the data: 0 is best"
    ),
    _number(
        "Fréchet distance", "frechet", 2, "of the features' mean and covariance from the data's (Heusel et al. 2017)"
    ),
    _share("precision", "precision", "is near a real image (Kynkäänniemi et al. 2019)"),
    _number(
        "density", "density", 2, "real images nearby, divided by their number near real images (Naeem et al. 2020)"
    ),
    _share("recall", "recall", "share of the real images that are near one of these (Kynkäänniemi et al. 2019)"),
    _share("coverage", "coverage", "share of the real images that have one of these nearby (Naeem et al. 2020)"),
    _share("memorised", "memorised", "is nearer to a training image than all but 1 % of the test images"),
    _number("nearest training image", "distance", 3, "median distance, root mean square over the pixels in [0, 1]"),
    _share("recognised, with noise", "noisy_recognised", "the same of x ~ p(x | z), with the noise of every pixel"),
    _number(
        "Fréchet distance, with noise", "noisy_frechet", 2, "the same of x ~ p(x | z), with the noise of every pixel"
    ),
)
