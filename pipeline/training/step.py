"""One step of training. All of it runs on the device, so that the host never waits for the device within a step.

Inputs and results are tensors at fixed addresses: the weights, the optimiser's moments, and one row of `metrics`, which
the host reads after many steps. So a step can be called, or captured once as a CUDA graph and replayed.
"""

from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.config import Train
from pipeline.model.labels import Labels
from pipeline.model.objectives import OBJECTIVES, draw
from pipeline.model.vae import VAE
from pipeline.process.distributed import Group
from pipeline.storage.tensors import with_prefix
from pipeline.training.cuda_graph import GraphedFunction

OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}

CHECK_EVERY = 64  # steps between two checks of the metrics by the host


class Step:
    """A step of gradient ascent on the objective's mean over a batch.

    A non-finite step is skipped, and so are all later ones until `clear()`.
    """

    def __init__(
        self,
        vae: VAE,
        images: UInt8[Tensor, "images pixels"],
        labels: Labels,
        settings: Train,
        group: Group,
        generator: torch.Generator,
    ) -> None:
        self.vae, self.images, self.labels, self.settings = vae, images, labels, settings
        self.group, self.generator = group, generator
        self.objective = OBJECTIVES[settings.objective]
        device = images.device
        # A row for each step since `clear()`: reconstruction, KL and objective, summed over the batch, and the
        # gradient's norm.
        self.metrics: Float[Tensor, "steps terms"] = torch.zeros(CHECK_EVERY, 4, device=device)
        self._rows = torch.arange(CHECK_EVERY, device=device)[:, None]
        self._row = torch.zeros((), dtype=torch.long, device=device)
        self._learning_rate = torch.zeros((), device=device)
        self._beta = torch.zeros((), device=device)
        options: dict[str, Any] = {"weight_decay": settings.weight_decay, "fused": True}
        options["capturable"] = device.type == "cuda"
        self.optimizer = OPTIMIZERS[settings.optimizer](vae.parameters(), **options)
        self.optimizer.param_groups[0]["lr"] = self._learning_rate
        self._allocate_optimizer_state()
        # Several processes exchange messages within a step, and messages cannot be captured.
        graphed = device.type == "cuda" and group.size == 1
        self.graphed = GraphedFunction(list(self.state().values()), generator) if graphed else None

    def __call__(self, batch: Int[Tensor, " batch"], learning_rate: float, beta: float, row: int) -> None:
        """Make one step.

        Args:
            batch: indices of the batch's images, on the device.
            beta: the weight of the KL, for the objective that has one.
            row: the row of `metrics` to write.
        """
        self._row.fill_(row)
        self._learning_rate.fill_(learning_rate)
        self._beta.fill_(beta)
        if self.graphed:
            self.graphed(self._update, batch)
        else:
            self._update(batch)

    def clear(self) -> None:
        """Set the metrics to zero."""
        self.metrics.zero_()

    def state(self) -> dict[str, Tensor]:
        """All tensors that a step changes. With the generator and the arguments they determine the next step."""
        tensors = {"metrics": self.metrics}
        tensors |= {f"weights/{name}": value for name, value in self.vae.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in moments.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Copy a `state` into this step's tensors, in place: a CUDA graph knows them by their addresses."""
        self.metrics.copy_(tensors["metrics"])
        self.vae.load_state_dict(with_prefix("weights", tensors))
        for index, moments in self.optimizer.state_dict()["state"].items():
            for name, value in with_prefix(f"optimizer/{index}", tensors).items():
                moments[name].copy_(value)

    def _update(self, batch: Int[Tensor, " batch"]) -> None:
        settings, device = self.settings, self.images.device
        x = self.vae.images.read(self.images.index_select(0, batch), self.generator)
        noise = torch.randn(settings.samples, len(x), self.vae.latent, generator=self.generator, device=device)
        shard = self.group.shard(len(x))
        y = None if self.labels is None else self.labels.index_select(0, batch[shard])
        self.optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            samples = draw(self.vae, x[shard], noise[:, shard], y)
            objective = self.objective(samples, self._beta)
        (-objective.sum() / len(x)).backward()
        terms = (*samples.elbo, objective)
        sums = self._all_reduce(torch.stack([term.detach().sum() for term in terms]))
        norm = nn.utils.get_total_norm([p.grad for p in self.vae.parameters() if p.grad is not None])
        self.metrics.copy_(torch.where(self._rows == self._row, torch.cat([sums, norm[None]]), self.metrics))
        # The AMP hooks of the fused optimisers: they divide gradients by `grad_scale`, and skip the step if `found_inf`
        # is 1. Here they clip the gradient and skip a non-finite step, without a host sync.
        scale = None if settings.clip_norm is None else (norm / settings.clip_norm).clamp(min=1.0)
        self.optimizer.grad_scale = scale  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.found_inf = 1.0 - self.metrics.isfinite().all().float()  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.step()

    def _all_reduce(self, sums: Tensor) -> Tensor:
        """Sum the gradients over all processes in place, and return the sum of `sums`; one message for both."""
        if self.group.size == 1:
            return sums
        gradients = [parameter.grad for parameter in self.vae.parameters() if parameter.grad is not None]
        message = torch.cat([*(gradient.flatten() for gradient in gradients), sums])
        self.group.all_reduce_sum_(message)
        *parts, sums = message.split([*(gradient.numel() for gradient in gradients), len(sums)])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))
        return sums

    def _allocate_optimizer_state(self) -> None:
        """Let one skipped step create the optimiser's moments, so that their addresses are fixed from now on."""
        before = self.generator.get_state()
        self.metrics.fill_(torch.nan)
        self._row.fill_(-1)  # no row: the step must not overwrite what makes it non-finite
        self._update(torch.zeros(self.group.size, dtype=torch.long, device=self.images.device))
        self.clear()
        self.generator.set_state(before)
