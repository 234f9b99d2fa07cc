"""The error for data that are the user's to mend."""


class DataError(ValueError):
    """A mistake in the user's data, or in the arguments that point to them.

    The message, one or two lines, names the file or folder, what was received and
    what would do. Command lines print it and end with status 2.
    """
