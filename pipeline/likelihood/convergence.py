"""How estimates of log p(x) come nearer to it as decoder evaluations are spent: one curve a method."""

import math

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import Evaluate, Verify
from pipeline.likelihood import annealed, importance
from pipeline.likelihood.proposals import propose
from pipeline.likelihood.weights import Weights
from pipeline.vae import VAE

SMALLEST = 4  # samples; fewer have no standard error worth drawing


def importance_curve(
    vae: VAE, x: Float[Tensor, "images pixels"], settings: Evaluate, name: str, samples: int
) -> pd.DataFrame:
    """The estimate by one proposal with 4, 8, ... `samples` samples.

    Returns:
        method, evaluations (of the decoder an image, what fitting the proposal took included), log_px (mean over
        images, nats), low and high (95 % by the delta method: what the estimate itself says of its error).
    """
    columns, spent = [], []
    for images in importance.blocks(len(x), vae, settings.chunk):
        # One level alone: all images of the curve have the same number of samples.
        single = settings.model_copy(update={"budget": settings.samples})
        block = importance.Block(vae, x[images.start : images.stop], images, single)
        if name in ("prior", "encoder"):
            proposal, before = propose(name, vae, block.x).proposal, torch.zeros(len(block.x))
        else:
            proposal, _, _, before = importance.prepare(block, name)
        everyone = torch.arange(len(block.x))
        columns.append(importance.draw(block, proposal, everyone, importance.ESTIMATE, samples))
        spent.append(before)
    log_w, before = torch.cat(columns, 1), float(torch.cat(spent).double().mean())
    sizes = [SMALLEST * 2**i for i in range(int(math.log2(samples / SMALLEST)) + 1)]
    return pd.DataFrame([_point(name, before + size, log_w[:size]) for size in sizes])


def annealed_curve(vae: VAE, x: Float[Tensor, "images pixels"], settings: Verify, chunk: int) -> pd.DataFrame:
    """The estimate by annealing from the prior, which owes nothing to encoder or fit, for several temperatures."""
    points = []
    for temperatures in settings.curve_temperatures:
        now = settings.model_copy(update={"temperatures": temperatures})
        columns = []
        for images in annealed.blocks(len(x), now, chunk):
            block_x = x[images.start : images.stop]
            prior = propose("prior", vae, block_x).proposal
            columns.append(annealed.annealed(annealed.Path(vae, block_x, prior, images, now)))
        log_w = torch.cat(columns, 1)
        points.append(_point("annealed", float(annealed.evaluations(now)), log_w))
    return pd.DataFrame(points)


def _point(method: str, evaluations: float, log_w: Float[Tensor, "samples images"]) -> dict[str, str | float]:
    weights = Weights.of(log_w)
    mean = float(weights.log_mean.mean())
    half = 1.96 * float(weights.standard_error.square().sum().sqrt()) / log_w.shape[1]
    return {"method": method, "evaluations": evaluations, "log_px": mean, "low": mean - half, "high": mean + half}
