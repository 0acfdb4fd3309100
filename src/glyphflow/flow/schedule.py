"""The sigmas that sampling visits, as the released scheduler computes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from glyphflow.core.config import Config, load_config
from glyphflow.core.errors import InputError
from glyphflow.core.files import read_json_object, write_json

_REFUSED = ("invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "stochastic_sampling")


class ScheduleConfig(Config):
    """The content of ``scheduler/scheduler_config.json``; the fields are the released ones.

    The defaults are what the released scheduler assumes for keys that its file lacks. Released Qwen-Image has dynamic shifting,
    max_shift 0.9, max_image_seq_len 8192 and shift_terminal 0.02; :data:`LIGHTNING` is that of the few-step distillations.
    """

    num_train_timesteps: int = 1000
    shift: float = 1.0
    use_dynamic_shifting: bool = False
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    shift_terminal: float | None = None
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    invert_sigmas: bool = False
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    stochastic_sampling: bool = False

    @classmethod
    def from_json(cls, path: str | Path) -> ScheduleConfig:
        """Read a ``scheduler_config.json``; a schedule of another kind raises :class:`InputError` or ``ConfigError``."""
        content = read_json_object(Path(path))
        config = load_config(cls, {key: value for key, value in content.items() if not key.startswith("_")})
        for key in _REFUSED:
            if getattr(config, key):
                raise InputError(f"{path} asks for {key}, which Qwen-Image's Euler schedule does not have; set it to false.")
        return config

    def to_json(self, path: str | Path) -> None:
        """Write a ``scheduler_config.json`` that the reference opens, too."""
        write_json(Path(path), {"_class_name": "FlowMatchEulerDiscreteScheduler", **self.model_dump()})

    @property
    def few_steps(self) -> bool:
        """Whether this is a few-step distillation's: the same shift at every size and no terminal (see :data:`LIGHTNING`)."""
        return self.use_dynamic_shifting and self.base_shift == self.max_shift and not self.shift_terminal

    def mu(self, image_tokens: int) -> float:
        """The shift for pictures of ``image_tokens`` packed tokens ((height / 16) (width / 16)): linear in their number."""
        slope = (self.max_shift - self.base_shift) / (self.max_image_seq_len - self.base_image_seq_len)
        return image_tokens * slope + (self.base_shift - slope * self.base_image_seq_len)


LIGHTNING = ScheduleConfig(
    use_dynamic_shifting=True, base_shift=math.log(3), max_shift=math.log(3), max_image_seq_len=8192, shift_terminal=None
)
"""What the 4- and 8-step distillations of Qwen-Image ("Lightning") were trained with: the shift is 3 at every size and there
is no terminal. The released schedule would put their four steps at other sigmas than they know."""

FEW_STEPS = 8
"""Steps of a distillation where nobody says how many: those for 4 steps can be walked in 8, the others not in 4."""

_NAMED = {"lightning": LIGHTNING}


def choose_schedule(wanted: str | ScheduleConfig | None, own: ScheduleConfig) -> ScheduleConfig:
    """``wanted`` by name ("lightning") or as it is; None means the model's ``own``. Other names raise :class:`InputError`."""
    if wanted is None:
        return own
    if isinstance(wanted, ScheduleConfig):
        return wanted
    if not isinstance(wanted, str) or wanted not in _NAMED:
        raise InputError(f"There is no schedule {wanted!r}; known are {', '.join(_NAMED)}, or give a ScheduleConfig.")
    return _NAMED[wanted]


def sigmas(
    config: ScheduleConfig,
    num_inference_steps: int,
    image_tokens: int,
    *,
    mu: float | None = None,
    unshifted: Sequence[float] | None = None,
) -> torch.Tensor:
    """The ``num_inference_steps`` + 1 sigmas from 1 to 0, fp32, on the CPU; step i goes from sigma i to sigma i + 1.

    Larger pictures stay longer at high sigma: by ``config.mu(image_tokens)``, or by the ``mu`` given. ``unshifted`` replaces
    the evenly spaced sigmas that the shift is applied to, one per step, falling, in (0, 1]. Bit-equal to the reference except
    for a single step, where the reference divides zero by zero; here one step goes from 1 to 0.
    """
    if num_inference_steps < 1:
        raise InputError(f"num_inference_steps is {num_inference_steps}; it must be at least 1.")
    s: np.ndarray = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps).astype(np.float32)
    if unshifted is not None:
        s = np.asarray(unshifted, dtype=np.float32)
        if s.shape != (num_inference_steps,) or not (s <= 1).all() or not (np.diff(s, append=0) < 0).all():
            raise InputError(
                f"The sigmas {list(unshifted)} are not {num_inference_steps} falling numbers in (0, 1]; give one per step."
            )
    if not config.use_dynamic_shifting:
        s = config.shift * s / (1 + (config.shift - 1) * s)
    else:
        mu = config.mu(image_tokens) if mu is None else mu
        weight = math.exp(mu) if config.time_shift_type == "exponential" else mu
        s = weight / (weight + (1 / s - 1))
    if config.shift_terminal and num_inference_steps > 1:
        s = 1 - (1 - s) / ((1 - s[-1]) / (1 - config.shift_terminal))
    return torch.cat([torch.from_numpy(s.astype(np.float32)), torch.zeros(1)])


def model_time(sigma: torch.Tensor, batch: int, dtype: torch.dtype) -> torch.Tensor:
    """The model's time input (B,) for a 0-dimensional fp32 ``sigma``.

    The reference goes through t = 1000 sigma in the model's dtype; in bf16 that rounding moves t by up to 4 of 1000, and the
    released weights are sampled with it.
    """
    return (sigma * 1000).expand(batch).to(dtype) / 1000
