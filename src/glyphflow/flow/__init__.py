"""The mathematics of flow matching: path, training times, sampling schedule, guidance, solver."""

from glyphflow.flow.guidance import true_cfg
from glyphflow.flow.path import interpolate, velocity_target
from glyphflow.flow.schedule import FEW_STEPS, LIGHTNING, ScheduleConfig, choose_schedule, model_time, sigmas
from glyphflow.flow.solvers import euler_step
from glyphflow.flow.timesteps import logit_normal_sigmas, stratified_sigmas

__all__ = [
    "FEW_STEPS",
    "LIGHTNING",
    "ScheduleConfig",
    "choose_schedule",
    "euler_step",
    "interpolate",
    "logit_normal_sigmas",
    "model_time",
    "sigmas",
    "stratified_sigmas",
    "true_cfg",
    "velocity_target",
]
