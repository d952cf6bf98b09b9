"""The studies: each a grid of DVC experiments over one parameter, and how its page shows what came out.

To add one: an entry in `STUDIES`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Study:
    """One parameter's values, everything else as in params.yaml but for `settings`."""

    title: str
    story: str  # what to look for; the numbers are the page's
    parameter: str
    axis: str
    values: tuple[float, ...]
    panels: tuple[str, ...]  # names in `page.PANELS`
    settings: tuple[str, ...] = ()


# A study asks for differences of many nats between experiments: a thousand test images tell them apart.
FEWER = (
    "evaluate.images=1000", "evaluate.comparison=100", "verify.images=10", "verify.curve_images=2",
    "verify.curve_temperatures=[10,30]", "compare.images=20",
)  # fmt: skip

STUDIES = {
    "sigma": Study(
        title="The decoder's noise σ, towards zero",
        story=(
            "σ says how exactly an image must be reproduced. No image can score above the ceiling −D/2 · ln 2πσ², "
            "which rises without limit as p(x | z) tends to a Dirac delta; but the residual x − f(z) stops falling "
            "at what the latent variable can carry. Log p(x) is best where σ is about as large as that residual. "
            "Below, a missed pixel costs more than the ceiling gains, and log p(x) falls without bound: the encoder "
            "spends ever more nats on exactness (KL), its encodings leave the prior, and samples turn ghostly, while"
            " reconstructions look no better. Above, detail may be ignored: the KL falls, and samples are clean. "
            "Training works all the way down, and each log p(x) can be believed, however bad the model."
        ),
        parameter="model.sigma",
        axis="σ, in pixel units",
        values=(0.01, 0.02, 0.04, 0.0707107, 0.15, 0.3),
        panels=("log_px", "residual", "kl", "trusted"),
        settings=FEWER,
    ),
    "latent": Study(
        title="The number of latent dimensions",
        story=(
            "More dimensions carry more of an image: the residual falls towards σ, the encoder spends more nats "
            "(KL), and log p(x) rises, steeply at first and then less. Samples of the prior do not follow: with few "
            "dimensions they are blurred digits, with many they come apart, for the encodings fill less and less of "
            "the prior. And a better model may be harder to measure: with 32 dimensions the posteriors are so bent "
            "that more estimates cannot be trusted with these numbers of samples."
        ),
        parameter="model.latent",
        axis="latent dimensions",
        values=(2, 4, 8, 16, 32),
        panels=("log_px", "residual", "kl", "trusted"),
        settings=FEWER,
    ),
    "samples": Study(
        title="The number of importance samples",
        story=(
            "The same model, measured with more and more samples from the proposal fitted to each image, all images "
            "with the same number. The estimate is a lower bound in expectation and rises to log p(x); where it no "
            "longer moves by more than its error, and nearly all images are trusted, more samples buy nothing."
        ),
        parameter="evaluate.samples",
        axis="importance samples per image, K",
        values=(32, 128, 512, 2048),
        panels=("log_px_alone", "error", "ess", "trusted"),
        settings=(*FEWER, "evaluate.budget=32"),  # below K there is no second level
    ),
}
