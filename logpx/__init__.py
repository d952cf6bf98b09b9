"""log p(x) of any latent-variable model, with an error and a verdict per image.

    model = logpx.Decoder(decode, logpx.Bernoulli())
    found = logpx.estimate(model, x, latent=50, start=mean)

`docs/logpx.md` explains it. Names are loaded when they are first used: `logpx.observations` needs nothing else of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logpx.annealing import anneal as anneal
    from logpx.annealing import bidirectional as bidirectional
    from logpx.estimator import Estimate as Estimate
    from logpx.estimator import estimate as estimate
    from logpx.model import Decoder as Decoder
    from logpx.model import Model as Model
    from logpx.observations.bernoulli import Bernoulli as Bernoulli
    from logpx.observations.beta_binomial import BetaBinomial as BetaBinomial
    from logpx.observations.categorical import Categorical as Categorical
    from logpx.observations.gaussian import Gaussian as Gaussian
    from logpx.observations.gaussian_per_pixel import GaussianPerPixel as GaussianPerPixel
    from logpx.observations.logistic import DiscretisedLogistic as DiscretisedLogistic
    from logpx.observations.logistic_mixture import LogisticMixture as LogisticMixture
    from logpx.variational import best_gaussian as best_gaussian
    from logpx.weights import Diagnosis as Diagnosis
    from logpx.weights import diagnose as diagnose

_HOMES = {
    "Bernoulli": "observations.bernoulli",
    "BetaBinomial": "observations.beta_binomial",
    "Categorical": "observations.categorical",
    "Decoder": "model",
    "Diagnosis": "weights",
    "DiscretisedLogistic": "observations.logistic",
    "Estimate": "estimator",
    "Gaussian": "observations.gaussian",
    "GaussianPerPixel": "observations.gaussian_per_pixel",
    "LogisticMixture": "observations.logistic_mixture",
    "Model": "model",
    "anneal": "annealing",
    "best_gaussian": "variational",
    "bidirectional": "annealing",
    "diagnose": "weights",
    "estimate": "estimator",
}
__all__ = [
    "Bernoulli",
    "BetaBinomial",
    "Categorical",
    "Decoder",
    "Diagnosis",
    "DiscretisedLogistic",
    "Estimate",
    "Gaussian",
    "GaussianPerPixel",
    "LogisticMixture",
    "Model",
    "anneal",
    "best_gaussian",
    "bidirectional",
    "diagnose",
    "estimate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'logpx' has no attribute {name!r}")
    return getattr(import_module(f"logpx.{_HOMES[name]}"), name)
