"""The learning rate of each step."""

from common.config import Config, Schedule, float32


def _unrounded(config: Config, step: int, total_steps: int) -> float:
    """The backbone's rate.

    `constant`: config.learning_rate. `poly`: times (1 - step / total_steps) ** poly_power
    (Chen et al., 2017, DeepLab), which would reach 0 one step after the last. Either is times
    (step + 1) / n during the first n = round(warmup * total_steps) steps (Goyal et al., 2017).
    """
    rate = config.learning_rate
    warm = round(config.warmup * total_steps)
    if step < warm:
        rate *= (step + 1) / warm
    if config.schedule == Schedule.poly:
        rate *= (1 - step / total_steps) ** config.poly_power
    return rate


def learning_rates(config: Config, step: int, total_steps: int) -> tuple[float, float]:
    """The rates of step `step` (from 0) of `total_steps`, the backbone's and the head's: float32.

    The second is `head_rate` times the first, which is not rounded before.
    """
    rate = _unrounded(config, step, total_steps)
    return float32(rate), float32(rate * config.head_rate)
