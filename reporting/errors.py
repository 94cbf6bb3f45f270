"""What stops the report, in words for the person who asked for it."""


class ReportError(Exception):
    """The report cannot be made; the message names the thing, the place and the way out."""
