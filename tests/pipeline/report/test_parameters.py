"""Which parameters the report lists."""

import pytest
import torch

from pipeline.config import Params
from pipeline.model.objectives import OBJECTIVES
from pipeline.model.observations import OBSERVATIONS
from pipeline.model.vae import VAE
from pipeline.report.parameters import read_parameters
from tests.support import flat_format, model_settings


def keys(sections: dict[str, dict[str, object]]) -> set[str]:
    return {f"{section}.{name}" for section, values in sections.items() for name in values}


def with_model(params: Params, **changes: object) -> dict[str, dict[str, object]]:
    return params.model_copy(update={"model": params.model.model_copy(update=changes)}).model_dump()


def test_the_default_reads_no_key_of_other_options(params: Params) -> None:
    sections = params.model_dump()
    assert keys(sections) - keys(read_parameters(sections)) == {
        "data.path", "data.sha256", "data.seed", "model.couplings", "model.width", "model.depth", "model.components",
        "train.beta", "train.beta_warmup",
    }  # fmt: skip


def test_own_images_have_a_digest_and_a_seed(params: Params) -> None:
    own = params.model_copy(update={"data": params.data.model_copy(update={"name": "own"})})
    assert set(read_parameters(own.model_dump())["data"]) == {"name", "sha256", "seed", "binarise"}


@pytest.mark.parametrize(("encoder", "decoder", "read"), [((), (), False), ((8,), (), True), ((), (8,), True)])
def test_linear_networks_do_not_read_the_activation(
    params: Params, encoder: tuple[int, ...], decoder: tuple[int, ...], read: bool
) -> None:
    found = keys(read_parameters(with_model(params, encoder=encoder, decoder=decoder)))
    assert ("model.activation" in found) == read
    conv = keys(read_parameters(with_model(params, encoder=encoder, decoder=decoder, network="conv")))
    assert "model.activation" in conv


def test_each_network_reads_its_sizes(params: Params) -> None:
    sizes = {"model.encoder", "model.decoder", "model.width", "model.depth"}
    mlp, conv = (keys(read_parameters(with_model(params, network=network))) & sizes for network in ("mlp", "conv"))
    assert mlp == {"model.encoder", "model.decoder"}
    assert conv == {"model.width", "model.depth"}


@pytest.mark.parametrize(("prior", "read"), [("normal", False), ("flow", True)])
def test_only_a_flow_reads_the_number_of_couplings(params: Params, prior: str, read: bool) -> None:
    assert ("model.couplings" in keys(read_parameters(with_model(params, prior=prior)))) == read


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_observation_models_read_their_own_keys(params: Params, observation: str) -> None:
    found = keys(read_parameters(with_model(params, observation=observation)))
    assert ("model.sigma" in found) == (observation == "gaussian")
    assert ("model.components" in found) == (observation == "logistic_mixture")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_only_the_objective_beta_reads_beta(params: Params, objective: str) -> None:
    train = params.train.model_copy(update={"objective": objective})
    found = keys(read_parameters(params.model_copy(update={"train": train}).model_dump()))
    assert {"train.beta" in found, "train.beta_warmup" in found} == {objective == "beta"}
    assert "train.samples" in found


def test_a_key_that_is_left_out_does_not_change_the_model(generator: torch.Generator) -> None:
    x = torch.rand(3, 6, generator=generator)
    outputs = []
    for activation in ("relu", "tanh"):
        torch.manual_seed(0)
        vae = VAE(model_settings(latent=2, encoder=[], decoder=[], activation=activation, sigma=0.1), flat_format(6))
        outputs.append(vae.decoder(vae.encoder(x).mean).mean)
    assert torch.equal(*outputs)
