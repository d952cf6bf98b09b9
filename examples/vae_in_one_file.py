"""A variational autoencoder in one file (Kingma & Welling 2014): data, model, ELBO, training, log p(x), samples.

python examples/vae_in_one_file.py --digits    # the 8 x 8 digits of scikit-learn: seconds
python examples/vae_in_one_file.py FOLDER      # MNIST, with the settings of params.yaml: minutes
"""

import argparse
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torchvision.datasets import MNIST
from torchvision.utils import save_image

sys.path.append(str(Path(__file__).resolve().parents[1]))  # so that logpx need not be installed
import logpx


@dataclass(frozen=True)
class Settings:
    latent: int = 16  # dimensions of z
    hidden: int = 512  # size of each of the two hidden layers, of encoder and decoder
    sigma: float = 0.0707107  # standard deviation of a pixel given z: σ² = 0.005
    epochs: int = 10
    batch_size: int = 256
    learning_rate: float = 0.006  # at its peak
    warmup: float = 0.05  # fraction of all steps in which the learning rate rises
    final_learning_rate: float = 0.01  # as a fraction of the peak
    clip_norm: float = 1000.0  # largest norm of the gradient of the mean ELBO
    validation: float = 0.1  # fraction of the training images that are held out
    images: int = 1000  # test images to measure, from the first on
    seed: int = 0  # of the weights, the order of the images, and all noise


def load(folder: Path | None) -> tuple[Tensor, Tensor, int]:  # train, test: uint8 (images, height, width); grey levels
    if folder is None:
        images = torch.as_tensor(load_digits(return_X_y=True)[0], dtype=torch.uint8).view(-1, 8, 8)
        test = torch.arange(len(images)) % 5 == 0
        return images[~test], images[test], 17
    if not (folder / "MNIST/raw/t10k-images-idx3-ubyte").is_file():
        sys.exit(f"error: no MNIST in {folder}; use --digits, or torchvision's MNIST({str(folder)!r}, download=True)")
    return MNIST(folder, train=True).data, MNIST(folder, train=False).data, 256


def dequantise(images: Tensor, levels: int) -> Tensor:  # uint8 (images, height, width) → (images, pixels) in [0, 1]
    # Grey levels v have no density: with ever narrower peaks on them, log p grows without bound. x = (v + u) / levels
    # with u ~ U[0, 1) has one, and E_u[log p(x)] is at most log P(v) + pixels · ln levels (Theis et al. 2016).
    return (images.flatten(1) + torch.rand(images.shape).flatten(1)) / levels


class VAE(nn.Module):  # p(z) = N(0, I), p(x | z) = N(f(z), σ² I), q(z | x) = N(μ(x), diag s²(x))
    def __init__(self, pixels: int, settings: Settings) -> None:
        super().__init__()
        latent, h, self.sigma = settings.latent, settings.hidden, settings.sigma
        self.net = nn.Sequential(nn.Linear(pixels, h), nn.SiLU(), nn.Linear(h, h), nn.SiLU(), nn.Linear(h, 2 * latent))
        layers = nn.Linear(latent, h), nn.SiLU(), nn.Linear(h, h), nn.SiLU(), nn.Linear(h, pixels), nn.Sigmoid()
        self.decoder = nn.Sequential(*layers)  # f: (batch, latent) → the means of the pixels, (batch, pixels)

    def encoder(self, x: Tensor) -> Normal:  # (batch, pixels) → q(z | x), a distribution over (batch, latent)
        mu, log_s = self.net(x).chunk(2, dim=-1)
        return Normal(mu, log_s.exp())

    def elbo(self, x: Tensor) -> Tensor:  # (batch, pixels) → (batch,), in nats
        # ELBO(x) = E_q[log p(x | z)] − KL[q(z | x) ‖ p(z)] ≤ log p(x), with one sample z = μ + s ε of q per image
        q, prior = self.encoder(x), Normal(0.0, 1.0)
        return Normal(self.decoder(q.rsample()), self.sigma).log_prob(x).sum(-1) - kl_divergence(q, prior).sum(-1)


def fit(vae: VAE, images: Tensor, levels: int, settings: Settings) -> None:
    held_out, rest = torch.randperm(len(images)).tensor_split([round(settings.validation * len(images))])
    validation, images = dequantise(images[held_out], levels), images[rest]
    # Factors of the learning rate, one per step: linear warm-up, then half a cosine from 1 to `final`.
    step = torch.arange(steps := settings.epochs * math.ceil(len(images) / settings.batch_size))
    rise, final = settings.warmup * steps, settings.final_learning_rate
    cosine = final + (1 - final) * (1 + torch.cos(math.pi * (step - rise) / (steps - rise))) / 2
    factors = iter(torch.minimum((step + 1) / (rise + 1), cosine).tolist())
    optimizer = torch.optim.AdamW(vae.parameters(), weight_decay=0.0)
    for epoch in range(1, settings.epochs + 1):
        mean = 0.0
        for batch in torch.randperm(len(images)).split(settings.batch_size):
            elbo = vae.elbo(dequantise(images[batch], levels))  # (batch,); each epoch has new noise u
            optimizer.zero_grad()
            (-elbo.mean()).backward()
            nn.utils.clip_grad_norm_(vae.parameters(), settings.clip_norm, error_if_nonfinite=True)
            optimizer.param_groups[0]["lr"] = settings.learning_rate * next(factors)
            optimizer.step()
            mean += elbo.sum().item() / len(images)
        print(f"epoch {epoch:3}  ELBO {mean:8.2f} training  {vae.elbo(validation).mean():8.2f} validation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("folder", type=Path, nargs="?", help="where MNIST is: FOLDER/MNIST/raw/...-ubyte")
    data.add_argument("--digits", action="store_true", help="use the digits of scikit-learn")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name}", type=type(value), default=argparse.SUPPRESS, help=f"MNIST's: {value}")
    given = vars(parser.parse_args())
    folder, digits = given.pop("folder"), given.pop("digits")
    small = {"latent": 8, "hidden": 256, "epochs": 60, "batch_size": 64, "learning_rate": 0.002} if digits else {}
    settings = Settings(**small | given)
    torch.manual_seed(settings.seed)
    train, test, levels = load(folder)
    vae = VAE(test[0].numel(), settings)
    fit(vae, train, levels, settings)
    x = dequantise(test[: settings.images], levels)
    q, model = vae.encoder(x), logpx.Decoder(vae.decoder, logpx.Gaussian(settings.sigma))
    found = logpx.estimate(model, x, latent=settings.latent, start=(q.mean, q.stddev), seed=settings.seed)
    bits = math.log2(levels) - found.log_px.mean() / (x.shape[1] * math.log(2))  # −log₂ P(v) per pixel
    print(f"ELBO = {vae.elbo(x).mean():.2f} nats\n{found}\nbits/dim = {bits:.3f}")
    save_image(vae.decoder(torch.randn(100, settings.latent)).view(-1, 1, *test.shape[1:]), "samples.png", nrow=10)


if __name__ == "__main__":
    main()
