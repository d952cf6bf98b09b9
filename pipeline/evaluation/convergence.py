"""How estimates of log p(x) converge as decoder evaluations are spent: one curve per method."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from logpx import annealing
from logpx.block import Block, blocks
from logpx.importance import fit_proposal, sample_log_weights
from logpx.noise import Stream
from logpx.weights import Weights

SMALLEST = 4  # samples; with fewer the standard error means little


def importance_curve(whole: Block, samples: int) -> pd.DataFrame:
    """The estimate by the proposal of the settings with 4, 8, ... `samples` samples, the same number for all images.

    Returns:
        method, evaluations (of the decoder per image, with those of fitting the proposal), log_px (mean over
        images, nats), low and high (95 % interval by the delta method).
    """
    columns, spent = [], []
    for block in blocks(whole):
        fit = fit_proposal(block)
        columns.append(sample_log_weights(block, fit.proposal, Stream.ESTIMATE, samples))
        spent.append(fit.evaluations.cpu())
    log_w, before = torch.cat(columns, 1), float(torch.cat(spent).double().mean())
    sizes = [SMALLEST * 2**i for i in range(int(math.log2(samples / SMALLEST)) + 1)]
    return pd.DataFrame([_point(whole.settings.proposal, before + size, log_w[:size]) for size in sizes])


def annealed_curve(whole: Block, anneal: annealing.Settings, temperatures: Sequence[int]) -> pd.DataFrame:
    """The estimate by annealing from the prior, which uses neither encoder nor fit, for several temperatures."""
    points = []
    whole = replace(whole, settings=replace(whole.settings, proposal="prior"))
    for count in temperatures:
        now = replace(anneal, temperatures=count)
        columns = [annealing.forward(problem) for problem in annealing.problems(whole, now)]
        points.append(_point("annealed", float(now.evaluations), torch.cat(columns, 1)))
    return pd.DataFrame(points)


def _point(method: str, evaluations: float, log_w: Float[Tensor, "samples images"]) -> dict[str, str | float]:
    weights = Weights.of(log_w)
    mean = float(weights.log_mean.mean())
    half = 1.96 * float(weights.standard_error.square().sum().sqrt()) / log_w.shape[1]
    return {"method": method, "evaluations": evaluations, "log_px": mean, "low": mean - half, "high": mean + half}
