"""Errors that people read.

Every error that a user can cause is a :class:`GlyphFlowError` whose text is one sentence for the person who must act: what is
wrong, the two values that disagree, what to do. The command line prints that sentence and exits with 1; anything else that
escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class GlyphFlowError(Exception):
    """Base of all errors whose message is meant for the user."""


class ConfigError(GlyphFlowError):
    """A recipe or an override is wrong: unknown key, wrong type, impossible combination."""


class InputError(GlyphFlowError):
    """A file, a picture, a prompt or a set of weights is not what it should be."""


class MissingError(GlyphFlowError):
    """Something that can be installed or fetched is not here: an extra, a font, a model directory."""


class StorageError(GlyphFlowError):
    """The disk refuses: full, read-only, over a size limit, or in use by another run."""


class InUseError(StorageError):
    """Another process is at work in the same directory."""


class InterruptedRun(GlyphFlowError):
    """The user stopped the run; what was finished is kept and the same command continues."""
