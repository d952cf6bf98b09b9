"""One step of training, on the device from its first operation to its last: one process waits for nothing in it.

Its inputs are tensors that stay where they are, and so is what it leaves: weights, the optimiser's moments, and a row
of `measures`, which the host reads after many steps. Such a step can be called, or captured once and replayed.
"""

from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.bounds import elbo
from pipeline.config import Train
from pipeline.graphs import Captured
from pipeline.observations import dequantise
from pipeline.ranks import Ranks
from pipeline.tensors import below
from pipeline.vae import VAE

OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}

LOOK = 64  # steps after which the host looks at what they came to


class Step:
    """A step that is not finite changes neither weights nor moments, and nor do those after it, until `clear`."""

    def __init__(
        self,
        vae: VAE,
        images: UInt8[Tensor, "images pixels"],
        levels: int,
        settings: Train,
        ranks: Ranks,
        generator: torch.Generator,
    ) -> None:
        self.vae, self.images, self.levels, self.settings, self.ranks = vae, images, levels, settings, ranks
        self.generator = generator
        device = images.device
        # Of each step since the last look: reconstruction and KL, summed over images, and the gradient's norm.
        self.measures: Float[Tensor, "steps terms"] = torch.zeros(LOOK, 3, device=device)
        self._rows = torch.arange(LOOK, device=device)[:, None]
        self._row = torch.zeros((), dtype=torch.long, device=device)
        self._rate = torch.zeros((), device=device)
        options: dict[str, Any] = {"weight_decay": settings.weight_decay, "fused": True}
        options["capturable"] = device.type == "cuda"
        self.optimizer = OPTIMIZERS[settings.optimizer](vae.parameters(), **options)
        self.optimizer.param_groups[0]["lr"] = self._rate
        self._rehearse()
        # Several processes exchange messages within a step, which are not captured.
        captured = device.type == "cuda" and ranks.size == 1
        self.captured = Captured(list(self.state().values()), generator) if captured else None

    def __call__(self, batch: Int[Tensor, " batch"], rate: float, row: int) -> None:
        """Ascend the ELBO of these images at this learning rate; what it came to is left in a row of `measures`."""
        self._row.fill_(row)
        self._rate.fill_(rate)
        if self.captured:
            self.captured(self._update, batch)
        else:
            self._update(batch)

    def clear(self) -> None:
        """Forget what was measured."""
        self.measures.zero_()

    def state(self) -> dict[str, Tensor]:
        """All that a step changes, and the next one depends on, beside the generator and its inputs."""
        tensors = {"measures": self.measures}
        tensors |= {f"weights/{name}": value for name, value in self.vae.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in moments.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state` gave, in place: a captured step knows its tensors by where they are."""
        self.measures.copy_(tensors["measures"])
        self.vae.load_state_dict(below("weights", tensors))
        for index, moments in self.optimizer.state_dict()["state"].items():
            for name, value in below(f"optimizer/{index}", tensors).items():
                moments[name].copy_(value)

    def _update(self, batch: Int[Tensor, " batch"]) -> None:
        settings, device = self.settings, self.images.device
        x = dequantise(self.images.index_select(0, batch), self.levels, self.generator)
        noise = torch.randn(1, len(x), self.vae.latent, generator=self.generator, device=device)
        share = self.ranks.share(len(x))
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            terms = elbo(self.vae, x[share], noise[:, share])
        (-terms.value.sum() / len(x)).backward()
        sums = self._over_ranks(torch.stack([terms.reconstruction.detach().sum(), terms.kl.detach().sum()]))
        norm = nn.utils.get_total_norm([p.grad for p in self.vae.parameters() if p.grad is not None])
        self.measures.copy_(torch.where(self._rows == self._row, torch.cat([sums, norm[None]]), self.measures))
        # As GradScaler tells it: gradients are divided by the one, and nothing is done where the other is 1.
        self.optimizer.grad_scale = (norm / settings.clip_norm).clamp(min=1.0)  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.found_inf = 1.0 - self.measures.isfinite().all().float()  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.step()

    def _over_ranks(self, sums: Tensor) -> Tensor:
        """These sums, and in place the gradients, added up over all processes, in one message."""
        if self.ranks.size == 1:
            return sums
        parameters = list(self.vae.parameters())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        assert len(gradients) == len(parameters)
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), sums])
        self.ranks.sum_(flat)
        *parts, sums = flat.split([*(gradient.numel() for gradient in gradients), len(sums)])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return sums

    def _rehearse(self) -> None:
        """A step without effect, that makes the optimiser's moments: they then stay where they are."""
        before = self.generator.get_state()
        self.measures.fill_(torch.nan)
        self._update(torch.zeros(self.ranks.size, dtype=torch.long, device=self.images.device))
        self.clear()
        self.generator.set_state(before)
