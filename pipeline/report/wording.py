"""What the pages call the images of a data set: digits, or images if they are others."""

import re

DIGITS = ("mnist", "digits")  # data sets whose images are digits


def worded(text: str, dataset: str) -> str:
    """A text that is written for digits, for the images of a data set: "an image" for "a digit" if they are others."""
    if dataset in DIGITS:
        return text
    text = re.sub(r"\b([Aa]) digit", r"\1n image", text)
    return text.replace("digit", "image").replace("Digit", "Image")
