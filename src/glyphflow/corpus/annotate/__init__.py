"""Caption and metadata of every picture, in the report's JSON (section 3.3).

A vision-language model writes them in one pass, asked until its answer fits; expert rules go over the answer. Renders bring
their own ground truth. On a machine without such a model, captions and names that came with the pictures, and the text read in
them, are put into the same form by the same rules.
"""

from glyphflow.corpus.annotate.operator import ANNOTATION_TYPES, VARIANTS, annotator
from glyphflow.corpus.annotate.prompts import IMAGE_TYPES, KEYS
from glyphflow.corpus.annotate.run import Annotated, annotate

__all__ = ["ANNOTATION_TYPES", "IMAGE_TYPES", "KEYS", "VARIANTS", "Annotated", "annotate", "annotator"]
