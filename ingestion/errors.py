"""What a command tells its user instead of a traceback: the thing, the place, the way out."""


class PipelineError(Exception):
    """A failure with a defined outcome; its text is shown as it is, and the exit code is 1."""


class LakeError(PipelineError):
    """A table or the lake's folder cannot be used as it is."""


class AddressError(PipelineError):
    """An address names no place that can be used."""


class SourceError(PipelineError):
    """A source, or one object of it, cannot be read."""
