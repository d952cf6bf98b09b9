"""The models of the study `models`, with the texts of its page. Each is the default or a preset of the same name.

To add one, add a file to `presets/` and an entry to `RUNGS`.
"""

from typing import NamedTuple


class Text(NamedTuple):
    """What the page says about a model. The page itself adds the numbers.

    Attributes:
        title: in a heading, after the name.
        label: a short title for the picture.
        story: what it is, and what to look for.
        source: where its design comes from.
        published: name in `pipeline.evaluation.ladder` of the published result to compare with; empty if there is none.
        differs: how the published number was measured, and what is different here; empty if there is none.
    """

    title: str
    label: str
    story: str
    source: str
    published: str = ""
    differs: str = ""


DEFAULT = "default"  # the experiment of the workspace, with params.yaml as it is

# The rows of the README's picture. Each adds something to the one before it.
STORY = {
    DEFAULT: "The tutorial's VAE",
    "flow": "+ a learned prior",
    "flow_label": "+ the label",
    "digits_on_request": "+ discrete pixels",
    "best_label": "+ convolutions and mixtures of pixels",
}

RUNGS = {
    DEFAULT: Text(
        title="the tutorial's VAE: Gaussian pixels, σ² = 0.005",
        label="Gaussian, σ² = 0.005",
        story=(
            "The textbook model: fully connected networks, and pixels with Gaussian noise of a fixed σ. It is below "
            "independent pixels with a variance each, a density without a latent variable. The reason is the noise, "
            "not the network: a pixel that is always black can earn ln 256 = 5.5 nats, and a Gaussian with σ = 0.07 "
            "gives it at most 1.7. The ceiling of this σ caps the whole image, whatever the network."
        ),
        source="Kingma & Welling 2014; σ² = 0.005 as in Wu et al. 2017",
    ),
    "sigma_learned": Text(
        title="the default with a learned σ",
        label="Gaussian, learned σ",
        story=(
            "σ is one more parameter of the decoder. Training moves it to about the residual that the latent variable "
            "leaves, so no grid of values is needed. One σ must still serve all pixels: those that are always black, "
            "and those at the edge of a stroke. That limits log p(x), and no training can change it."
        ),
        source="σ-VAE, Rybkin et al. 2021",
    ),
    "published": Text(
        title="the published decoder of Wu et al. 2017, σ² = 0.005",
        label="Wu et al.'s decoder and σ²",
        story=(
            "A wider and deeper network with 50 latent dimensions under the same fixed σ. It gains nats on the "
            "default, and stays below the ceiling that its σ sets. Many latent dimensions also make log p(x) harder "
            "to measure: look at the trusted share."
        ),
        source="VAE-50, Wu et al. 2017: decoder 50-1024-1024-1024-784",
        published="VAE-50, σ² = 0.005",
        differs=(
            "They measured with annealed importance sampling (16 chains, 10 000 temperatures) on 1 000 test images. "
            "The decoder's layers, its tanh and σ² are theirs. The encoder, the objective and the training are ours, "
            "so a difference says nothing about the two estimators."
        ),
    ),
    "logistic": Text(
        title="the default network with a discretised logistic",
        label="default network, logistic",
        story=(
            "Only the observation model has changed: each pixel has a probability for every grey level, from a "
            "logistic distribution whose mean and scale the decoder computes. A pixel that is always black now earns "
            "nearly all of its 5.5 nats. The same network gains more than two thousand nats."
        ),
        source="observation model of PixelCNN++, Salimans et al. 2017, with one component",
    ),
    "fast": Text(
        title="a small network with a discretised logistic",
        label="small network, logistic",
        story=(
            "The quickest way to a model that means something: small layers and few epochs, about a minute of training "
            "on two cores. It shows how much of the way is the observation model's."
        ),
        source="this project",
    ),
    "bb_ans": Text(
        title="one hidden layer of 200, beta-binomial pixels",
        label="one hidden layer, beta-binomial",
        story=(
            "The small network that BB-ANS compressed MNIST with. Its pixels are beta-binomial: a discrete "
            "distribution with a mean and a width, as the discretised logistic, but with a natural place for pixels "
            "that are exactly 0 or 255. A code by bits back needs the ELBO, not log p(x): the inference gap is what "
            "such a code wastes."
        ),
        source="BB-ANS, Townsend et al. 2019: 50 latent dimensions, one hidden layer of 200 units on each side, ReLU",
        published="BB-ANS: one-layer VAE, beta-binomial",
        differs=(
            "They published the ELBO on the test images as a code length: 1.39 bits/dim. Compare it with the ELBO "
            "here. Log p(x) of the same weights is higher by the inference gap. Optimiser and epochs are ours."
        ),
    ),
    "good": Text(
        title="residual convolutional network, mixture of logistics",
        label="convolutions, logistic mixture",
        story=(
            "Convolutions know that neighbouring pixels belong together, and a mixture of a few discretised logistics "
            "can say “black or white, but not grey”. With 32 latent dimensions and bfloat16, for four minutes of "
            "training on two cores."
        ),
        source="this project; mixture as in PixelCNN++, Salimans et al. 2017",
        published="Bit-Swap: VAE with eight latent layers, logistic",
        differs=(
            "They published the ELBO on the test images as a code length, of a model with eight layers of latent "
            "variables. Compare it with the ELBO here. This model has one layer."
        ),
    ),
    "best": Text(
        title="convolutions and a mixture with a flow as prior, trained longer",
        label="convolutions, flow prior, longer",
        story=(
            "The preset “good” with two changes: a flow learns the distribution of the encodings, so that they need "
            "not fill N(0, I), and there are four times the epochs. In the same time, the importance-weighted bound "
            "with five samples and a third of the epochs gave 20 nats less."
        ),
        source="this project; Dinh et al. 2017, Salimans et al. 2017",
        published="RealNVP",
        differs=(
            "RealNVP is a flow without a latent variable, so its density is exact and has no inference gap. The number "
            "was measured by others on all 10 000 test images, with other draws of the dequantisation noise. Glow, "
            "another flow, is a few nats above it."
        ),
    ),
    "best_label": Text(
        title="a high density, and digits on request",
        label="convolutions, flow and label",
        story=(
            "The preset “best” with the label as an input of all three networks, and trained with clipped gradients, "
            "as “best” was before. It is the best of both: clean digits of the class that is asked for, at a high "
            "log p(x). Each image is measured with all ten labels, so only few images are: look at the standard error, "
            "and at the inference gap beside that of “best”."
        ),
        source="this project; Dinh et al. 2017, Sohn et al. 2015, Salimans et al. 2017",
    ),
    "flow": Text(
        title="the default with a normalising flow as prior",
        label="Gaussian, flow prior",
        story=(
            "The default's encodings do not fill N(0, I), so most of its samples come from holes between them and are "
            "no digits. Here a chain of affine couplings turns N(0, I) into the distribution of the encodings, and "
            "is trained with the rest by the same ELBO. Log p(x) need not change much for that: look at the samples."
        ),
        source="Real NVP, Dinh et al. 2017; as a prior of a VAE, Huang et al. 2017",
    ),
    "label": Text(
        title="the default with the label as an input",
        label="Gaussian, label",
        story=(
            "Prior, encoder and decoder get the class of the image, so a digit can be asked for, and z has to carry "
            "the style only. Without a flow the encodings still leave holes, so few samples are cleaner. Log p(x) sums "
            "over all ten labels. That makes the model a classifier too."
        ),
        source="conditional VAE, Sohn et al. 2015; model M2 of Kingma et al. 2014 with all labels known",
    ),
    "flow_label": Text(
        title="the default with a flow and the label",
        label="Gaussian, flow and label",
        story=(
            "The flow depends on the class, so each digit has its own distribution of styles. Most samples are "
            "recognised, and most are the digit that was asked for. Strokes are as soft as the default's, because the "
            "observation model is the same."
        ),
        source="Dinh et al. 2017; Sohn et al. 2015",
    ),
    "digits_on_request": Text(
        title="flow, label and a discretised logistic: clean digits on request",
        label="logistic, flow and label",
        story=(
            "The best of all steps that cost nothing: the default's networks, a discretised logistic for the pixels, a "
            "flow and the label. It draws the digit that is asked for in a style that can be kept from digit to digit. "
            "With 8 latent dimensions in place of 16 it has fewer nats, and is a better classifier."
        ),
        source="this project; Dinh et al. 2017, Sohn et al. 2015, Salimans et al. 2017",
    ),
    "iwae": Text(
        title="IWAE with one stochastic layer, binarised images",
        label="one latent layer, k = 10",
        story=(
            "Black and white images, drawn anew in each epoch with the grey level as probability. Nats of binarised "
            "images are log-probabilities of 784 bits. They compare with the published table of binarised MNIST, and "
            "not with the grey images of the other models."
        ),
        source="Burda et al. 2016: 50 latent dimensions, two hidden layers of 200 units on each side, tanh",
        published="IWAE, one latent layer, k = 50",
        differs=(
            "They measured the importance-weighted bound with 5 000 samples of the encoder on all test images, after "
            "3 280 epochs with 50 samples on all 60 000 training images. Here a tenth of these images is held out, and "
            "there are 260 epochs with 10 samples, larger batches, larger learning rates and the encoder's gradient of "
            "Tucker et al. 2019. The test images are binarised once, by another draw than theirs."
        ),
    ),
}
