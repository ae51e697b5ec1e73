"""The error that a user's mistake ends in: one message, no traceback."""


class UserError(ValueError):
    """A mistake in what the user asked for: names the value, the reason and the line to write instead.

    The command line prints the message alone and exits with status 2; in Python it is a ``ValueError``.
    """
