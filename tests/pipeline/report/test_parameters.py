"""Which parameters the report lists."""

import pytest
import torch

from pipeline.config import Model, Params
from pipeline.model.vae import VAE
from pipeline.report.parameters import read_parameters


def keys(sections: dict[str, dict[str, object]]) -> set[str]:
    return {f"{section}.{name}" for section, values in sections.items() for name in values}


def with_layers(params: Params, encoder: tuple[int, ...], decoder: tuple[int, ...]) -> dict[str, dict[str, object]]:
    model = params.model.model_copy(update={"encoder": encoder, "decoder": decoder})
    return params.model_copy(update={"model": model}).model_dump()


def test_the_default_parameters_are_all_read(params: Params) -> None:
    assert read_parameters(params.model_dump()) == params.model_dump()


@pytest.mark.parametrize(("encoder", "decoder", "read"), [((), (), False), ((8,), (), True), ((), (8,), True)])
def test_linear_networks_do_not_read_the_activation(
    params: Params, encoder: tuple[int, ...], decoder: tuple[int, ...], read: bool
) -> None:
    sections = with_layers(params, encoder, decoder)
    found = keys(read_parameters(sections))
    assert ("model.activation" in found) == read
    assert keys(sections) - found <= {"model.activation"}


def test_a_key_that_is_left_out_does_not_change_the_model(generator: torch.Generator) -> None:
    x = torch.rand(3, 6, generator=generator)
    outputs = []
    for activation in ("relu", "tanh"):
        torch.manual_seed(0)
        vae = VAE(Model(latent=2, encoder=(), decoder=(), activation=activation, sigma=0.1), 6)
        outputs.append(vae.decoder(vae.encoder(x).mean).mean)
    assert torch.equal(*outputs)
