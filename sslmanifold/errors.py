"""The errors that end in one message, no traceback."""


class UserError(ValueError):
    """A mistake in what the user asked for: names the value, the reason and the line to write instead.

    The command line prints the message alone and exits with status 2; in Python it is a ``ValueError``.
    """


class OutputError(UserError):
    """A file that could not be written: a full disk, a read-only folder, one that was removed.

    The command line prints the message alone and exits with status 1: the same line may succeed later.
    """
