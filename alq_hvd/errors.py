"""Every error this package raises, under one root.

Each message says what was expected, what was received, on which rank where ranks matter, and what to do about it.
"""


class AlqError(Exception):
    """The root of all errors of this package: ``except AlqError`` catches them all."""


class ConfigurationError(AlqError, ValueError):
    """An option has a value that cannot work; the message lists the valid ones."""


class ConfigurationMismatch(AlqError):
    """Ranks were started with different options, parameters or versions."""


class CallOrderError(AlqError):
    """Gradients arrived in an order, number or shape that contradicts the agreed plan of fusion groups."""


class UnsupportedTensor(AlqError, TypeError):
    """A tensor has a dtype, layout or device that cannot be compressed."""


class UnsupportedReduction(AlqError):
    """Horovod reduces with something that is neither a sum nor an average (Adasum, Min, Max, Product)."""


class WireFormatError(AlqError):
    """A received record is truncated, corrupted, or was encoded under another configuration."""


class LevelsMismatch(AlqError):
    """Ranks hold different level tables, or a level table arrived damaged."""


class WeightsError(AlqError, ValueError):
    """Weights cannot be quantised: NaN, infinite, or none at all."""


class WeightsMismatch(AlqError):
    """Ranks hold different quantised weights."""


class CommunicationTimeout(AlqError, TimeoutError):
    """A collective did not complete in time: a rank died, left early, or was started without this plugin."""


class BackendUnavailable(AlqError, ImportError):
    """A codec or a transport needs a package that is not installed; the message says how to install it."""


class StateError(AlqError, ValueError):
    """A saved state does not belong to this configuration, or is damaged."""


class CheckpointError(AlqError):
    """A checkpoint could not be written, or none of those on disk can be read."""


class RunRecordError(AlqError):
    """The record of a run is missing, unfinished or damaged, or does not belong beside the others."""
