"""The errors that are the user's to mend: one or two lines, never a traceback."""

from datasets.errors import DataError


class UserError(ValueError):
    """A mistake in a recipe, a command line or a run folder.

    The message names the file, key or worker, what was received and what would do.
    `recipe.py` prints it on one worker and ends with status 2.
    """


USER_ERRORS = (UserError, DataError)


class RunError(RuntimeError):
    """A run that cannot go on, through nobody's mistake on the command line.

    `recipe.py` prints the message on one worker and ends with status 1.
    """
