"""The studies. Each is a grid of DVC experiments over one parameter, with the panels and the text of its page.

To add a study, add an entry to `STUDIES`.
"""

from dataclasses import dataclass

from tools import presets


@dataclass(frozen=True)
class Study:
    """Experiments that differ in one parameter.

    Attributes:
        story: what to look for on the page. The page itself adds the numbers.
        parameter: the key in params.yaml.
        axis: its name and unit, for the figures.
        values: of the parameter, one per experiment.
        panels: names of four panels in `panels.PANELS`.
        settings: other changes to params.yaml, the same for all experiments, as KEY=VALUE.
        repeats: whether the experiments differ by chance only. The page then has the spread between them.
    """

    title: str
    story: str
    parameter: str
    axis: str
    values: tuple[float, ...]
    panels: tuple[str, str, str, str]
    settings: tuple[str, ...] = ()
    repeats: bool = False


# A study asks for differences of many nats between experiments: a thousand test images are enough.
FEWER = presets.assignments("study")

STUDIES = {
    "sigma": Study(
        title="The decoder's noise σ, towards zero",
        story=(
            "σ says how exactly the decoder must reproduce an image. No log-density can be above the ceiling, "
            "−D/2 · ln 2πσ². As σ tends to 0, p(x | z) tends to a Dirac delta and the ceiling rises without limit. The "
            "residual x − f(z) does not tend to 0: it stops falling at what the latent variable can carry. Log p(x) is "
            "largest if σ is about as large as the residual. With a smaller σ a missed pixel costs more than the "
            "ceiling gains, and log p(x) falls without bound. The encoder spends more and more nats on exactness (KL). "
            "Its encodings leave the region where the prior has its mass, and samples turn into ghosts of digits. "
            "Reconstructions look no better. With a larger σ the model may ignore details: the KL falls, and samples "
            "are clean. Training succeeds for every σ here, and log p(x) can be trusted even if the model is bad."
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
            "More dimensions carry more of an image. The residual falls towards σ, the encoder spends more nats (KL), "
            "and log p(x) rises, steeply at first and then less. Samples of the prior do not improve in the same way. "
            "With few dimensions they are blurred digits. With many they fall apart, because the encodings fill less "
            "and less of the prior. A better model can also be harder to measure: with 32 dimensions the posteriors "
            "are so curved that fewer estimates can be trusted with these numbers of samples."
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
            "One model, measured with more and more samples from the proposal fitted to each image. All images have "
            "the same number of samples. The estimate is a lower bound, in expectation, and rises to log p(x). Once it "
            "changes by less than its error, and nearly all images are trusted, more samples do not help."
        ),
        parameter="evaluate.samples",
        axis="importance samples per image, K",
        values=(32, 128, 512, 2048),
        panels=("log_px_difference", "error", "ess", "trusted"),
        settings=(*FEWER, "evaluate.budget=32"),  # not above K, so that every image has K samples
    ),
    "seeds": Study(
        title="The same training with other seeds",
        story=(
            "The default model, trained again and again. Only train.seed differs: the initial weights, the order of "
            "the images, all noise of the training, and which images are held out for validation. The spread between "
            "these trainings says which differences between two settings may be chance: two trainings of the same "
            "setting differ by √2 times the standard deviation, typically. The standard error over images answers "
            "another question, how far the mean over other test images would be from this one. All trainings are "
            "measured on the same test images, so it is not part of the spread. A standard deviation of five values "
            "is itself known to about a third only."
        ),
        parameter="train.seed",
        axis="seed of the training",
        values=(0, 1, 2, 3, 4),
        panels=("log_px_spread", "elbo_spread", "recognised_spread", "trusted"),
        repeats=True,  # with the settings of params.yaml: the spread belongs to the numbers of the report
    ),
}
