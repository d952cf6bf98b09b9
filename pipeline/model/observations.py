"""The observation models that `model.observation` names.

To add one, write its class in `logpx/observations`, enter it here, and add its name to `pipeline/config.py`.
"""

from collections.abc import Callable

from logpx.observations.bernoulli import Bernoulli
from logpx.observations.beta_binomial import BetaBinomial
from logpx.observations.categorical import Categorical
from logpx.observations.distribution import Observation
from logpx.observations.gaussian import Gaussian
from logpx.observations.gaussian_per_pixel import GaussianPerPixel
from logpx.observations.logistic import DiscretisedLogistic
from logpx.observations.logistic_mixture import LogisticMixture
from pipeline.config import Model
from pipeline.data.image_format import ImageFormat
from pipeline.errors import UserError

OBSERVATIONS: dict[str, Callable[[Model, ImageFormat], Observation]] = {
    "gaussian": lambda model, images: Gaussian(model.sigma if isinstance(model.sigma, float) else 1.0),
    "gaussian_per_pixel": lambda model, images: GaussianPerPixel(images.levels),
    "logistic": lambda model, images: DiscretisedLogistic(images.levels),
    "logistic_mixture": lambda model, images: LogisticMixture(model.components, images.levels),
    "beta_binomial": lambda model, images: BetaBinomial(images.levels),
    "categorical": lambda model, images: categorical(images),
    "bernoulli": lambda model, images: Bernoulli(),
}
MOST_OUTPUTS = 50_000  # of a decoder: a layer of 512 units before them has 100 MB of weights


def categorical(images: ImageFormat) -> Categorical:
    """The categorical observation model.

    Raises:
        UserError: if the decoder would need more than `MOST_OUTPUTS` outputs.
    """
    outputs = images.pixels * images.levels
    if outputs > MOST_OUTPUTS:
        raise UserError(
            f"model.observation = categorical: {images.pixels} pixels with {images.levels} levels need {outputs} "
            f"outputs of the decoder, more than {MOST_OUTPUTS}; use logistic_mixture, or data.name = digits"
        )
    return Categorical(images.levels)
