"""The discretised logistic mixture (Salimans et al. 2017, PixelCNN++, section 2.1), for images of one channel."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from logpx.observations.cells import grey_levels
from logpx.observations.logistic import log_mass, mean_of_x, sample_x, scale_of

FIRST_LOG_SCALE = -2.0  # a scale of 0.14, a standard deviation of 0.25: that of U[0, 1] is 0.29


@dataclass(frozen=True)
class LogisticMixture:
    """Independent pixels: P(v) = Σ_c w_c P_c(v), each P_c a discretised logistic with `levels` cells of [0, 1].

    The parameters are 3 · `components` numbers per pixel: the logits of all components, then their shifts m, then their
    raw log-scales s. The weights are w = softmax(logits). Component c of C has the location (c + ½) / C + m_c and the
    log-scale −2 + s_c. So a network whose outputs are near 0 gives a broad distribution over [0, 1], and its components
    differ from the start. Equal ones would get equal gradients.

    x is in [0, 1], and log p(x | z) is its log-density there, log P(v) + log levels, so it compares with the densities
    of continuous models.

    >>> import logpx, torch
    >>> observation = logpx.LogisticMixture(components=5, levels=2)
    >>> observation.log_prob(torch.rand(3), torch.zeros(45)).abs().item() < 1e-5  # P(0) = P(1) = ½, by symmetry
    True
    """

    components: int = 5
    levels: int = 256
    discrete = True

    @property
    def features(self) -> int:
        return 3 * self.components

    def ceiling(self, pixels: int) -> float:
        """D ln levels, the log-density of an image whose levels are certain, in nats."""
        return pixels * math.log(self.levels)

    def mean(self, parameters: Float[Tensor, "*batch parameters"]) -> Float[Tensor, "*batch pixels"]:
        """The mean of x: Σ_c w_c of the components' means."""
        logits, location, scale = self._split(parameters)
        return (logits.softmax(-2) * mean_of_x(location, scale, self.levels)).sum(-2)

    def sample(
        self, parameters: Float[Tensor, "*batch parameters"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch pixels"]:
        """Draw a component by Gumbel's method, a cell by inverting its distribution function, and x uniformly in it."""
        logits, location, scale = self._split(parameters)
        gumbel = -torch.empty_like(logits).exponential_(generator=generator).log()
        component = (logits + gumbel).argmax(-2, keepdim=True)
        location, scale = (part.gather(-2, component).squeeze(-2) for part in (location, scale))
        return sample_x(location, scale, self.levels, generator)

    def log_prob(
        self, x: Float[Tensor, "*#batch pixels"], parameters: Float[Tensor, "*#batch parameters"]
    ) -> Float[Tensor, "*batch"]:
        """log p(x | z) of each image, in nats: log P(v) = log Σ_c exp(log w_c + log P_c(v))."""
        logits, location, scale = self._split(parameters)
        v = grey_levels(x, self.levels).to(location).unsqueeze(-2)
        log_p = (logits.log_softmax(-2) + log_mass(v, location, scale, self.levels)).logsumexp(-2)
        return log_p.sum(-1) + x.shape[-1] * math.log(self.levels)

    def _split(self, parameters: Float[Tensor, "*batch parameters"]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, locations and scales, each (*batch, components, pixels)."""
        logits, shift, log_scale = parameters.unflatten(-1, (3, self.components, -1)).unbind(-3)
        # Made on the device: a copy from the host cannot be captured in a CUDA graph.
        number = torch.arange(self.components, dtype=parameters.dtype, device=parameters.device)
        middles = (number + 0.5) / self.components
        return logits, middles[:, None] + shift, scale_of(FIRST_LOG_SCALE + log_scale)
