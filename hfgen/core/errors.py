"""The error that a user sees."""


class HfgenError(Exception):
    """A mistake of input or environment, told in one line: the offending value and the way out.

    Commands print it without a traceback and end with exit status 1.
    """
