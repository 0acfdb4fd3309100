"""Making pictures with a model directory in the released layout."""

from glyphflow.generate.directory import ModelFacts
from glyphflow.generate.export_layers import flatten, write_layers
from glyphflow.generate.files import read_metadata, write_picture
from glyphflow.generate.metadata import Metadata, describe, describe_again, open_again, picture_hash
from glyphflow.generate.parallel import Parallel
from glyphflow.generate.pipeline import GenerateResult, Pipeline
from glyphflow.generate.speed import Speed

__all__ = [
    "GenerateResult",
    "Metadata",
    "ModelFacts",
    "Parallel",
    "Pipeline",
    "Speed",
    "describe",
    "describe_again",
    "flatten",
    "open_again",
    "picture_hash",
    "read_metadata",
    "write_layers",
    "write_picture",
]
