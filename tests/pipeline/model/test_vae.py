"""The VAE is built as its settings say: prior, encoder, decoder and σ."""

import torch
from torch.distributions import MultivariateNormal

from pipeline.config import Model
from pipeline.model.vae import VAE

SETTINGS = Model(latent=3, encoder=(8, 6), decoder=(5,), activation="silu", sigma=0.1)


def test_the_prior_is_standard_normal() -> None:
    z = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]])
    expected = MultivariateNormal(torch.zeros(3), torch.eye(3)).log_prob(z)
    torch.testing.assert_close(VAE(SETTINGS, pixels=12).prior.log_prob(z), expected)


def test_encoder_and_decoder_have_the_sizes_of_the_settings() -> None:
    vae = VAE(SETTINGS, pixels=12)
    shapes = {name: tuple(p.shape) for name, p in vae.named_parameters() if name.endswith("weight")}
    assert list(shapes.values()) == [(8, 12), (6, 8), (6, 6), (5, 3), (12, 5)]
    assert vae.encoder(torch.rand(4, 12)).mean.shape == (4, 3)
    assert vae.decoder(torch.zeros(7, 4, 3)).mean.shape == (7, 4, 12)
    assert vae.decoder.observation.sigma == 0.1


def test_only_the_networks_have_weights_to_save() -> None:
    names = VAE(SETTINGS, pixels=12).state_dict()
    assert names
    assert all(name.startswith(("encoder.network", "decoder.network")) for name in names)
