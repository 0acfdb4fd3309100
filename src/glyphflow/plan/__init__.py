"""Memory, time and copying of a run before it is started."""

from glyphflow.plan.generate import PRESETS, GenerationPlan, Phase, Request, plan_generation

__all__ = ["PRESETS", "GenerationPlan", "Phase", "Request", "plan_generation"]
