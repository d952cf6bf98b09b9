"""`python -m benchmarks.calibration`: how often a trusted estimate of log p(x) is wrong, where log p(x) is known.

Models with an exact log p(x), each with right and wrong encoders:
- a decoder that ignores z: log p(x) = log p(x | z);
- a linear decoder: log p(x) is a Gaussian's log-density;
- a curved decoder with two latent dimensions: log p(x) by quadrature on a grid.

An estimate is wrong if it is more than three standard errors off. Rounding of float32 counts as a part of the standard
error, since weights can be equal. Rescued estimates, which are second attempts, are also counted by themselves. Ends
with one JSON line.
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, product

import torch
from torch import Tensor, nn

from logpx.block import PROPOSALS, Settings
from logpx.estimator import estimate_whole
from logpx.model import log_joint
from pipeline.evaluation.settings import joint, prepare
from pipeline.model.vae import VAE
from tests.support import Linear, flat_format, model_settings

SCALES, SHIFTS = (0.3, 0.5, 0.7, 0.85, 1.0, 1.3, 2.0), (0.0, 0.5, 1.5)  # of the encoder, in posterior deviations
GRID = torch.linspace(-7, 7, 701, dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """Images whose log p(x) under a model is known; its encoder's posterior is wrong by `scale` and `shift`."""

    kind: str
    model: VAE
    x: Tensor
    exact: Tensor


def ignoring(images: int, generator: torch.Generator) -> Iterator[Case]:
    """Decoders that ignore z: the posterior is the prior."""
    for latent, scale, shift in product((2, 8, 16), SCALES, SHIFTS):
        vae = VAE(
            model_settings(latent=latent, encoder=[], decoder=[], activation="relu", sigma=0.07), flat_format(200)
        )
        (decoder,), (encoder,) = vae.decoder.network.children(), vae.encoder.network.children()
        assert isinstance(decoder, nn.Linear)
        assert isinstance(encoder, nn.Linear)
        with torch.no_grad():
            for parameter in (decoder.weight, decoder.bias, encoder.weight, encoder.bias):
                parameter.zero_()
            encoder.bias[:latent] = shift / math.sqrt(latent)
            encoder.bias[latent:] = math.log(scale)
            x = 0.5 + 0.1 * torch.randn(images, 200, generator=generator)
            yield Case("ignores_z", vae, x, vae.decoder(torch.zeros(latent)).log_prob(x).double())


def linear(images: int, generator: torch.Generator) -> Iterator[Case]:
    """Linear decoders, whose posterior is a Gaussian with a full covariance."""
    for latent, sigma, scale, shift in product((2, 8, 16), (0.3, 1.5), SCALES, SHIFTS):
        w = torch.randn(24, latent, generator=generator, dtype=torch.float64) / math.sqrt(latent)
        model = Linear(w, torch.zeros(24, dtype=torch.float64), sigma)
        offset = shift / math.sqrt(latent) * model.precision.diagonal().rsqrt()
        vae, x = model.vae(scale, offset), model.sample(images, generator)
        yield Case("linear", vae, x, model.log_px(x))


@torch.no_grad()
def curved(images: int, generator: torch.Generator) -> Iterator[Case]:
    """Decoders that bend a plane, whose posteriors are bent too and may have several modes."""
    z = torch.cartesian_prod(GRID, GRID)
    cell = (GRID[1] - GRID[0]).square().log()
    for number, (sigma, gain) in enumerate(product((0.1, 0.2, 0.4), (1.0, 2.0, 3.0))):
        torch.manual_seed(number)
        vae = VAE(
            model_settings(latent=2, encoder=[16], decoder=[16], activation="tanh", sigma=sigma), flat_format(12)
        ).double()
        for parameter in vae.decoder.parameters():
            parameter.mul_(gain)
        true_z = torch.randn(5 * images, 2, generator=generator, dtype=torch.float64)  # fewer models, so more images
        x = vae.decoder(true_z).sample(generator)
        exact = torch.cat([log_joint(joint(vae), image[None], z[:, None]).logsumexp(0) + cell for image in x])
        yield Case("curved", vae, x, exact)


def measure(case: Case, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """Errors of the trusted estimates in nats, and in standard errors; and which of them are rescued."""
    found = estimate_whole(prepare(case.model, case.x, None, settings))
    error = (found.log_px - case.exact)[found.trusted]
    rounding = torch.finfo(torch.float32).eps * case.exact.abs()[found.trusted]
    in_errors = error / (found.standard_error[found.trusted].square() + rounding.square()).sqrt()
    return error, in_errors, found.rescued[found.trusted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=30, help="images of each model and encoder")
    parser.add_argument("--samples", type=int, default=256, help="importance samples per image")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    settings = Settings(arguments.samples, 16 * arguments.samples, chunk=8192, seed=arguments.seed)
    errors: dict[str, dict[str, list[tuple[Tensor, Tensor, Tensor]]]] = {}
    images: dict[str, int] = {}
    generator = torch.Generator().manual_seed(arguments.seed)
    families = (ignoring, linear, curved)
    for number, case in enumerate(chain.from_iterable(family(arguments.images, generator) for family in families)):
        images[case.kind] = images.get(case.kind, 0) + len(case.x)
        for proposal in PROPOSALS:
            # A seed for each case: images of two cases with the same index would share their noise.
            found = measure(case, replace(settings, proposal=proposal, seed=arguments.seed + number))
            errors.setdefault(case.kind, {}).setdefault(proposal, []).append(found)
    results = {
        kind: {proposal: summary(images[kind], lists) for proposal, lists in by_proposal.items()}
        for kind, by_proposal in errors.items()
    }
    for kind, proposal in product(results, PROPOSALS):
        print(f"{kind:10s}", f"{proposal:8s}", *(f"{k} {v}" for k, v in results[kind][proposal].items()), sep="  ")
    print(json.dumps({"settings": vars(arguments), **results}))


def summary(images: int, lists: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, float]:
    """How many estimates are trusted, and how many of these are wrong; the same of the rescued ones among them."""
    error, in_errors, rescued = (torch.cat(parts) for parts in zip(*lists, strict=True))
    wrong = in_errors.abs() > 3
    return {
        "images": images, **_share("trusted", "wrong", wrong),
        "largest_error": round(float(error.abs().max()) if len(error) else 0.0, 4),
        **_share("rescued", "rescued_wrong", wrong[rescued]),
    }  # fmt: skip


def _share(name: str, of_wrong: str, wrong: Tensor) -> dict[str, float]:
    """The number of estimates, of wrong ones, and the share of these."""
    count = int(wrong.sum())
    return {name: len(wrong), of_wrong: count, f"{of_wrong}_share": round(count / max(1, len(wrong)), 5)}


if __name__ == "__main__":
    main()
