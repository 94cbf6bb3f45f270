"""What the upload tells instead of a traceback."""

from ingestion.errors import PipelineError


class UploadError(PipelineError):
    """The upload did not do what it was asked for: the thing, the place, the way out."""
