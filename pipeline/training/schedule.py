"""The learning rate and the weight of the KL over a training."""

import math


def learning_rate_factor(step: int, steps: int, warmup: float, final: float) -> float:
    """The learning rate of a step as a fraction of its peak: linear warm-up, then cosine decay to `final`.

    Args:
        step: number of the step, from 0.
        steps: steps of the whole training.
        warmup: fraction of the steps in which the learning rate rises.
        final: learning rate at the end, as a fraction of its peak.
    """
    rise = warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    progress = (step - rise) / max(1.0, steps - rise)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def beta_factor(step: int, steps: int, warmup: float) -> float:
    """The weight of the KL in a step as a fraction of β: it rises linearly in the fraction `warmup` of all steps."""
    rise = warmup * steps
    return 1.0 if step >= rise else step / rise
