"""What the report says of each prior, observation model and objective: a formula, and what it means.

To add one, enter it here. A test compares the names with `OBSERVATIONS` and `OBJECTIVES` of `pipeline.model`, and with
`Model.prior` of `pipeline.config`.
"""

from typing import NamedTuple


class Text(NamedTuple):
    """A formula in LaTeX, and sentences about it in plain text."""

    formula: str
    meaning: str


PRIOR_TEXTS: dict[str, Text] = {
    "normal": Text(r"p(z) = \mathcal{N}(0, I)", ""),
    "flow": Text(
        r"z = g(\varepsilon),\ \varepsilon \sim \mathcal{N}(0, I): \quad \log\, p(z) = "
        r"\log\, \mathcal{N}(g^{-1}(z);\ 0, I) + \log\, \left|\det \frac{\partial g^{-1}(z)}{\partial z}\right|",
        "A network that draws images from Gaussian noise does two things: its first layers turn the Gaussian into the "
        "distribution over the latent space, and later ones turn that into images. Here the first layers are a part of "
        "their own, the normalising flow g (Dinh et al. 2017). It is a chain of affine couplings: each scales and "
        "shifts half of the coordinates by functions of the other half. So g has an inverse, and the density of z is "
        "known. With N(0, I) as the prior, the encodings leave holes in it, and a sample from a hole is not like the "
        "data. The flow learns where the encodings are.",
    ),
}

# i is a pixel and L the number of grey levels. F is the logistic function.
OBSERVATION_TEXTS: dict[str, Text] = {
    "gaussian": Text(
        r"p(x \mid z) = \mathcal{N}(f(z),\ \sigma^2 I)",
        "Each pixel is the decoder's mean f(z) plus Gaussian noise with the same σ everywhere.",
    ),
    "gaussian_per_pixel": Text(
        r"p(x \mid z) = \prod_i \mathcal{N}(x_i;\ m_i(z),\ \sigma_i^2(z)), \qquad \sigma_i(z) = \sigma_0 + "
        r"\mathrm{softplus}(r_i(z))",
        "The decoder computes a mean and a standard deviation for each pixel. No σ is below σ₀ = 1/(L√12), the "
        "standard deviation of the noise that dequantisation adds. Without such a floor the likelihood has no maximum.",
    ),
    "logistic": Text(
        r"P(v_i \mid z) = F\left(\frac{(v_i + 1)/L - m_i(z)}{s_i(z)}\right) - F\left(\frac{v_i/L - m_i(z)}{s_i(z)}"
        r"\right), \qquad F(t) = \frac{1}{1 + e^{-t}}",
        "The grey level of each pixel has a discretised logistic distribution, whose location and scale the decoder "
        "computes. The lowest level has all the mass below it, the highest all the mass above it.",
    ),
    "logistic_mixture": Text(
        r"P(v_i \mid z) = \sum_c w_{ic}(z)\, \left[F\left(\frac{(v_i + 1)/L - m_{ic}(z)}{s_{ic}(z)}\right) - "
        r"F\left(\frac{v_i/L - m_{ic}(z)}{s_{ic}(z)}\right)\right], \qquad F(t) = \frac{1}{1 + e^{-t}}",
        "The grey level of each pixel has a mixture of discretised logistic distributions. The decoder computes a "
        "weight, a location and a scale for each component. The lowest level has all the mass below it, the highest "
        "all the mass above it.",
    ),
    "beta_binomial": Text(
        r"P(v_i \mid z) = \int_0^1 \mathrm{Binomial}(v_i;\ L - 1,\ \theta)\, \mathrm{Beta}(\theta;\ a_i(z),\ b_i(z))\, "
        r"d\theta",
        "The grey level of each pixel is a number of successes, whose probability has a Beta distribution. The decoder "
        "computes a and b.",
    ),
    "categorical": Text(
        r"P(v_i = l \mid z) = \frac{\exp\, h_{il}(z)}{\sum_k \exp\, h_{ik}(z)}",
        "The decoder computes a number for each grey level of each pixel, and a softmax turns them into probabilities.",
    ),
    "bernoulli": Text(
        r"P(v_i = 1 \mid z) = \frac{1}{1 + e^{-h_i(z)}}",
        "Each pixel is white or black. The decoder computes the log-odds of white.",
    ),
}

# Training maximises the mean of these over the images.
OBJECTIVE_TEXTS: dict[str, Text] = {
    "elbo": Text(
        r"\mathbb{E}_{q(z \mid x)}[\log\, p(x \mid z)] - \mathrm{KL}[q(z \mid x) \,\|\, p(z)]",
        "This is the ELBO itself.",
    ),
    "beta": Text(
        r"\mathbb{E}_{q(z \mid x)}[\log\, p(x \mid z)] - \beta\, \mathrm{KL}[q(z \mid x) \,\|\, p(z)]",
        "It weights the KL by β (Higgins et al. 2017). With β < 1 it is not a bound on log p(x).",
    ),
    "iwae": Text(
        r"\mathbb{E}_{z_1 \ldots z_k \sim q}\left[\log\, \frac{1}{k} \sum_{j=1}^{k} \frac{p(x \mid z_j)\, p(z_j)}"
        r"{q(z_j \mid x)}\right]",
        "This is the importance-weighted bound of k samples (Burda et al. 2016), between the ELBO and log p(x).",
    ),
}
