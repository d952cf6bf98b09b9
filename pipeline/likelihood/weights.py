"""What importance weights say: log p(x), its standard error, and whether to believe it. One value an image."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# An estimate is trusted with at least this effective sample size, and a tail that the sample size can carry.
MINIMUM_ESS = 10.0
ROUNDING = 0.05  # nats


class Weights:
    """Running sums of the weights of a batch of images, in float64 and scaled by the largest seen."""

    def __init__(self, batch: int) -> None:
        self.count = 0
        self._peak = torch.full((batch,), -torch.inf, dtype=torch.float64)
        self._sum = torch.zeros(batch, dtype=torch.float64)
        self._sum_of_squares = torch.zeros(batch, dtype=torch.float64)

    @classmethod
    def of(cls, log_w: Float[Tensor, "samples batch"]) -> "Weights":
        weights = cls(log_w.shape[1])
        weights.add(log_w)
        return weights

    def add(self, log_w: Float[Tensor, "samples batch"]) -> None:
        log_w = log_w.cpu().double()
        peak = torch.maximum(self._peak, log_w.amax(0))
        shrink = (self._peak - peak).exp()
        w = (log_w - peak).exp()
        self._sum = self._sum * shrink + w.sum(0)
        self._sum_of_squares = self._sum_of_squares * shrink.square() + w.square().sum(0)
        self._peak = peak
        self.count += log_w.shape[0]

    @property
    def log_mean(self) -> Float[Tensor, " batch"]:
        """log 1/K Σ w, nats; in expectation at most log p(x) (Burda et al. 2016)."""
        return self._peak + (self._sum / self.count).log()

    @property
    def effective_sample_size(self) -> Float[Tensor, " batch"]:
        """(Σ w)² / Σ w², from 1 (one sample has all the weight) to K (Kong 1992)."""
        return self._sum.square() / self._sum_of_squares

    @property
    def standard_error(self) -> Float[Tensor, " batch"]:
        """Of log 1/K Σ w by the delta method: the relative standard error of the mean weight, nats.

        sd(w) / (√K · mean(w)), with the n − 1 variance: √((K/ESS − 1) / (K − 1)); infinite for one sample.
        """
        excess = (self.count / self.effective_sample_size - 1).clamp(min=0)
        return (excess / (self.count - 1)).sqrt() if self.count > 1 else torch.full_like(excess, torch.inf)


class Diagnosis(NamedTuple):
    """Log p(x) of a batch of images in nats, and what speaks for it; float64 on the CPU."""

    log_px: Float[Tensor, " batch"]
    standard_error: Float[Tensor, " batch"]
    ess: Float[Tensor, " batch"]
    khat: Float[Tensor, " batch"]
    samples: Float[Tensor, " batch"]
    trusted: Bool[Tensor, " batch"]


def diagnose(log_w: Float[Tensor, "samples batch"]) -> Diagnosis:
    """Estimate log p(x) from all weights of each image, as they are, and judge the estimate.

    Trusted means: effective sample size at least `MINIMUM_ESS`, and Pareto k̂ < min(1 − 1/log₁₀ K, 0.7), the shape of
    the weights' upper tail beyond which K samples do not average it (Vehtari et al. 2024). The smoothing that
    comes with k̂ is not used. Finite, and small enough that float32, in which decoders work, rounds a log-weight by
    less than `ROUNDING` nats.
    """
    samples, batch = log_w.shape
    weights = Weights.of(log_w)
    khat = pareto_khat(log_w)
    trusted = (weights.effective_sample_size >= MINIMUM_ESS) & (khat < khat_threshold(samples))
    trusted &= weights.log_mean.abs() * torch.finfo(torch.float32).eps < ROUNDING  # also false for what is no number
    return Diagnosis(
        weights.log_mean,
        weights.standard_error,
        weights.effective_sample_size,
        khat,
        torch.full((batch,), float(samples), dtype=torch.float64),
        trusted,
    )


def khat_threshold(samples: int) -> float:
    """min(1 − 1/log₁₀ K, 0.7): the largest Pareto k̂ that K samples can be trusted with (Vehtari et al. 2024)."""
    return min(1 - 1 / math.log10(samples), 0.7) if samples > 1 else -math.inf


def pareto_khat(log_w: Float[Tensor, "samples batch"]) -> Float[Tensor, " batch"]:
    """Shape of the generalised Pareto distribution of each image's largest weights, all images at once; float64.

    The tail is that of Vehtari et al. 2024: the largest 3 √K weights, a fifth where K is small, above the next one.
    The shape is the posterior mean of Zhang & Stephens (2009), drawn a little towards ½. Weights that are all equal
    have no tail: −∞. Fewer samples than a fit needs, or a tail that spans more than floating-point numbers do: +∞.
    """
    log_w = log_w.double()
    samples = len(log_w)
    infinite = torch.full_like(log_w[0], torch.inf)
    equal = log_w.amax(0) - log_w.amin(0) < 1e-6  # differences at rounding's level are no tail
    if samples < 25:
        return torch.where(equal, -infinite, infinite)
    size = int(3 * samples**0.5) if samples > 225 else samples // 5
    largest = log_w.topk(size + 1, dim=0).values
    w = (largest - largest[0]).exp()
    khat = _pareto_shape((w[:-1] - w[-1]).flip(0))
    return torch.where(equal, -infinite, torch.where(khat.isfinite(), khat, infinite))


def _pareto_shape(exceedances: Float[Tensor, "tail batch"]) -> Float[Tensor, " batch"]:
    """Zhang & Stephens' estimate for sorted exceedances, with Vehtari et al.'s prior: ten observations of ½.

    Their profile likelihood in b = −shape/scale, on a grid that is scaled by the first quartile and the maximum, is
    taken as a density over b, whose mean gives the shape.
    """
    size = len(exceedances)
    points = 30 + int(size**0.5)
    steps = torch.arange(1, points + 1, dtype=exceedances.dtype, device=exceedances.device)[:, None] - 0.5
    quartile, maximum = exceedances[int(size / 4 + 0.5) - 1], exceedances[-1]
    b = (1 - (points / steps).sqrt()) / (3 * quartile) + 1 / maximum
    shape = torch.log1p(-b[:, None] * exceedances).mean(1)
    weights = (size * ((-b / shape).log() - shape - 1)).softmax(0)
    weights = torch.where(weights < 10 * torch.finfo(weights.dtype).eps, 0, weights)
    mean = (b * weights).sum(0) / weights.sum(0)
    shape = torch.log1p(-mean * exceedances).mean(0)
    return (size * shape + 10 * 0.5) / (size + 10)
