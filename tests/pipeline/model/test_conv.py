"""Convolutional networks: any size of image, one image at a time, and derivatives of every order."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev

from pipeline.data.image_format import ImageFormat
from pipeline.model.conv import Block, Decoder, Encoder, Enlarge
from pipeline.model.vae import VAE
from tests.support import model_settings

SIZES = [(28, 28), (8, 8), (5, 7), (1, 3), (1, 1)]
SETTINGS = model_settings(latent=3, network="conv", width=4, depth=1, activation="silu")


def perturbed(network: nn.Module) -> nn.Module:
    """In float64 and with all weights moved, so that no block is the identity."""
    generator = torch.Generator().manual_seed(2)
    for parameter in network.double().parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return network


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("channels", "depth"), [(4, 2), (1, 0), (3, 1)])
def test_an_image_of_any_size_has_outputs_and_a_latent_vector_has_an_image(
    height: int, width: int, channels: int, depth: int
) -> None:
    settings = SETTINGS.model_copy(update={"width": channels, "depth": depth})
    images = ImageFormat(height, width, 17)
    assert Encoder(settings, images, 0, 6)(torch.rand(2, height * width)).shape == (2, 6)
    assert Decoder(settings, images, 0, 4)(torch.rand(2, 3)).shape == (2, 4 * height * width)


def test_the_number_of_parameters_is_that_of_the_layers_counted_by_hand() -> None:
    """8 × 8 pixels: four channels of 4 × 4, eight of 2 × 2; six outputs, and three features per pixel."""
    images = ImageFormat(8, 8, 17)
    half, quarter = 2 * (4 * 4 * 9 + 4), 2 * (8 * 8 * 9 + 8)  # a block of two convolutions at each size
    encoder = (1 * 4 * 25 + 4) + half + (4 * 8 * 9 + 8) + quarter + (8 * 2 * 2 * 6 + 6)
    assert count(Encoder(SETTINGS, images, 0, 6)) == encoder == 2062
    # Enlarging gives four times as many channels, which become pixels; full size has two channels.
    enlarge = (8 * 4 * 4 * 9 + 4 * 4) + (4 * 4 * 2 * 9 + 4 * 2)
    decoder = (3 * 32 + 32) + quarter + half + enlarge + (2 * 3 * 9 + 3)
    assert count(Decoder(SETTINGS, images, 0, 3)) == decoder == 3113


def test_colours_are_channels(generator: torch.Generator) -> None:
    """The encoder reads one channel of all pixels after another; the decoder gives each feature in the same order."""
    images = ImageFormat(5, 7, 17, channels=3)
    encoder, decoder, seen = Encoder(SETTINGS, images, 2, 6), Decoder(SETTINGS, images, 0, 4), list[Tensor]()
    encoder.convolutions[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.rand(2, 105, generator=generator)
    assert encoder(torch.cat([x, torch.ones(2, 2)], 1)).shape == (2, 6)
    assert torch.equal(seen[0], torch.cat([x.view(2, 3, 5, 7), torch.ones(2, 2, 5, 7)], 1))
    assert decoder(torch.randn(2, 3, generator=generator)).shape == (2, 4 * 105)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_result_of_an_image_does_not_depend_on_its_batch(
    height: int, width: int, generator: torch.Generator
) -> None:
    images = ImageFormat(height, width, 17)
    x = torch.rand(5, height * width, generator=generator, dtype=torch.float64)
    z = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    for network, inputs in (
        (perturbed(Encoder(SETTINGS, images, 0, 6)), x),
        (perturbed(Decoder(SETTINGS, images, 0, 2)), z),
    ):
        together = network(inputs)
        alone = torch.cat([network(part) for part in inputs.split(1)])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
        torch.testing.assert_close(network(inputs.flip(0)), together.flip(0), rtol=0, atol=1e-12)
        assert (together[0] - together[1]).abs().max() > 1e-3  # they do depend on the input


def test_an_image_is_read_row_by_row(generator: torch.Generator) -> None:
    encoder, seen = Encoder(SETTINGS, ImageFormat(5, 7, 17), 0, 6), list[Tensor]()
    encoder.convolutions[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.rand(2, 35, generator=generator)
    encoder(x)
    assert torch.equal(seen[0], x.view(2, 1, 5, 7))


def test_the_output_has_one_feature_of_all_pixels_after_another(generator: torch.Generator) -> None:
    """As observation models read it, each feature row by row."""
    decoder, made = Decoder(SETTINGS, ImageFormat(5, 7, 17), 0, 3), list[Tensor]()

    def record(module: nn.Module, inputs: object, output: Tensor) -> None:
        made.append(output)

    decoder.convolutions[-1].register_forward_hook(record)
    output = decoder(torch.randn(2, 3, generator=generator))
    assert made[0].shape == (2, 3, 5, 7)
    for feature in range(3):
        for row in range(5):
            start = feature * 35 + row * 7
            assert torch.equal(output[:, start : start + 7], made[0][:, feature, row])


@pytest.mark.parametrize("channels", [1, 5])
def test_a_block_is_the_identity_at_first_and_a_residual_of_two_convolutions(
    channels: int, generator: torch.Generator
) -> None:
    h = torch.randn(2, channels, 3, 4, generator=generator)
    block = Block(channels, "tanh")
    assert torch.equal(block(h), h)
    for parameter in block.parameters():
        nn.init.normal_(parameter, generator=generator)
    pad = nn.functional.conv2d(h.tanh(), block.first.weight, block.first.bias, padding=1).tanh()
    expected = h + nn.functional.conv2d(pad, block.second.weight, block.second.bias, padding=1)
    torch.testing.assert_close(block(h), expected)


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_four_groups_of_channels_become_four_pixels(size: tuple[int, int], generator: torch.Generator) -> None:
    """The same as PyTorch's pixel shuffle of channels in its order; no images have no pixels, and a gradient."""
    layer, outputs = Enlarge(3, 5, size), 5
    h = torch.randn(2, 3, 3, 4, generator=generator)
    theirs = layer.layer(h).unflatten(1, (4, outputs)).transpose(1, 2).flatten(1, 2)
    expected = torch.nn.functional.pixel_shuffle(theirs, 2)[:, :, : size[0], : size[1]]
    assert layer(h).equal(expected)
    assert layer(h[:0].requires_grad_()).shape == (0, outputs, *size)
    layer(h[:0]).sum().backward()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7), (1, 3)])
def test_the_decoder_has_a_hessian_by_functional_transforms(
    height: int, width: int, generator: torch.Generator
) -> None:
    """The search for modes and their curvature needs it; against central differences of the gradient."""
    decoder = perturbed(Decoder(SETTINGS, ImageFormat(height, width, 17), 0, 1))
    target = torch.rand(height * width, generator=generator, dtype=torch.float64)

    def energy(z: Tensor) -> Tensor:
        return (decoder(z[None])[0] - target).square().sum()

    z, step = torch.randn(3, generator=generator, dtype=torch.float64), 1e-5
    gradient = jacrev(energy)
    found = jacrev(gradient)(z)
    shifts = step * torch.eye(3, dtype=torch.float64)
    expected = torch.stack([(gradient(z + shift) - gradient(z - shift)) / (2 * step) for shift in shifts])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    gauss_newton = 2 * (jacobian := jacrev(lambda z: decoder(z[None])[0])(z)).T @ jacobian
    assert (found - gauss_newton).abs().max() > 1e-3  # it bends


def test_the_memory_format_does_not_change_results(generator: torch.Generator) -> None:
    vae = VAE(SETTINGS, ImageFormat(8, 8, 17))
    perturbed(vae)
    convolution = vae.encoder.network.convolutions[3]  # pyright: ignore[reportIndexIssue]
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert not convolution.weight.is_contiguous()
    other = copy.deepcopy(vae).to(memory_format=torch.contiguous_format)
    x = torch.rand(3, 64, generator=generator, dtype=torch.float64)
    z = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(vae.encoder(x).mean, other.encoder(x).mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(vae.decoder(z).mean, other.decoder(z).mean, rtol=0, atol=1e-12)


def test_a_label_is_a_plane_for_each_class_beside_the_image(generator: torch.Generator) -> None:
    encoder, seen = Encoder(SETTINGS, ImageFormat(5, 7, 17), 3, 6), list[Tensor]()
    encoder.convolutions[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x, y = torch.rand(2, 35, generator=generator), torch.tensor([2, 0])
    encoder(torch.cat([x, nn.functional.one_hot(y, 3).float()], 1))
    assert seen[0].shape == (2, 4, 5, 7)
    assert torch.equal(seen[0][:, 0], x.view(2, 5, 7))
    assert torch.equal(seen[0][:, 1:], nn.functional.one_hot(y, 3).float()[:, :, None, None].expand(-1, -1, 5, 7))


def test_labels_add_a_plane_to_the_encoder_and_an_input_to_the_decoder() -> None:
    images = ImageFormat(8, 8, 17)
    assert count(Encoder(SETTINGS, images, 3, 6)) - count(Encoder(SETTINGS, images, 0, 6)) == 3 * 4 * 25
    assert count(Decoder(SETTINGS, images, 3, 1)) - count(Decoder(SETTINGS, images, 0, 1)) == 3 * 32
