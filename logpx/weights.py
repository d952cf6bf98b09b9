"""From importance weights to log p(x), its standard error, and a verdict; one value per image."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# The least effective sample size of a trusted estimate.
MINIMUM_ESS = 10.0
ROUNDING = 0.05  # nats: the most that float32 may round a trusted log p(x) by
LEAST_FOR_TAIL = 25  # samples that Pareto k̂ needs
# Log-weights that differ by less than this fraction of the largest, or by less than this many nats, count as equal:
# float32 rounds their terms by about as much, and a tail of one in a thousand is none.
EQUAL, EQUAL_NATS = 8 * torch.finfo(torch.float32).eps, 1e-3


class Weights:
    """Running sums of the weights of a batch of images, in float64, scaled by the largest so far."""

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
        """Standard error of log 1/K Σ w by the delta method: the relative standard error of the mean weight, nats.

        sd(w) / (√K · mean(w)), with the n − 1 variance: √((K/ESS − 1) / (K − 1)); infinite for one sample.
        """
        excess = (self.count / self.effective_sample_size - 1).clamp(min=0)
        return (excess / (self.count - 1)).sqrt() if self.count > 1 else torch.full_like(excess, torch.inf)


class Diagnosis(NamedTuple):
    """Log p(x) of a batch of images in nats, with its diagnostics; float64 on the CPU."""

    log_px: Float[Tensor, " batch"]
    standard_error: Float[Tensor, " batch"]
    ess: Float[Tensor, " batch"]
    khat: Float[Tensor, " batch"]
    samples: Float[Tensor, " batch"]
    trusted: Bool[Tensor, " batch"]


def diagnose(log_w: Float[Tensor, "samples batch"]) -> Diagnosis:
    """Estimate log p(x) from all weights of each image, unsmoothed, and judge the estimate.

    An estimate is trusted if
    - its effective sample size is at least `MINIMUM_ESS`;
    - Pareto k̂ < min(1 − 1/log₁₀ K, 0.7): with a heavier tail, K weights do not average reliably (Vehtari et al. 2024);
    - it is finite, and so small that float32, in which decoders work, rounds it by less than `ROUNDING` nats.
    """
    samples, batch = log_w.shape
    weights = Weights.of(log_w)
    khat = pareto_khat(log_w)
    trusted = (weights.effective_sample_size >= MINIMUM_ESS) & (khat < khat_threshold(samples))
    trusted &= weights.log_mean.abs() * torch.finfo(torch.float32).eps < ROUNDING  # false for NaN
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

    The tail is that of Vehtari et al. 2024: the largest 3 √K weights (a fifth of all if K is small), above the next.
    The shape is the posterior mean of Zhang & Stephens (2009), shrunk a little towards ½. Equal weights have no tail:
    −∞ (see `EQUAL`). Too few samples for a fit, or a tail wider than the range of floating-point numbers, give +∞.

    ArviZ computes the same for one image at a time; the tests compare with it.
    """
    log_w = log_w.double()
    samples = len(log_w)
    infinite = torch.full_like(log_w[0], torch.inf)
    equal = log_w.amax(0) - log_w.amin(0) <= (EQUAL * log_w.amax(0).abs()).clamp(min=EQUAL_NATS)
    if samples < LEAST_FOR_TAIL:
        return torch.where(equal, -infinite, infinite)
    size = int(3 * samples**0.5) if samples > 225 else samples // 5
    largest = log_w.topk(size + 1, dim=0).values
    w = (largest - largest[0]).exp()
    khat = _pareto_shape((w[:-1] - w[-1]).flip(0))
    return torch.where(equal, -infinite, torch.where(khat.isfinite(), khat, infinite))


def _pareto_shape(exceedances: Float[Tensor, "tail batch"]) -> Float[Tensor, " batch"]:
    """Zhang & Stephens' estimate for sorted exceedances, with Vehtari et al.'s prior: ten observations of ½.

    Their profile likelihood in b = −shape/scale, on a grid scaled by the first quartile and the maximum, serves as a
    density over b; its mean gives the shape.
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
