"""Errors with a message for the user: one or two lines, never a traceback."""


class UserError(ValueError):
    """A mistake in a recipe, a command line or a run folder.

    The message, one or two lines, names the file, key or worker, what was received and
    what to do. Command lines print it, on one worker, and end with status 2.

    Attributes:
        shared: every worker raises it, so only rank 0 prints it.
    """

    shared = False


class DataError(UserError):
    """A mistake in the user's data, or in the arguments that point to them."""


class SharedUserError(UserError):
    """A `UserError` of one worker or more that all workers raise together."""

    shared = True


class RunError(RuntimeError):
    """A run that cannot continue, though the command line was right.

    All workers raise it together; `recipe.py` prints the message on rank 0 and ends with
    status 1.
    """


class OtherWorkerEnded(RuntimeError):
    """Horovod stopped a collective; the message is Horovod's reason.

    Usually another worker has ended and has reported why. Where none has, the supervisor
    reports this reason.
    """


class Preempted(RuntimeError):
    """A signal asked the run to stop, and it did; `recipe.py` ends with status 75.

    Attributes:
        shared: every worker raises it, with everything saved. Where it is False, each
            worker raises its own when its signal arrives.
    """

    shared = False


class SharedPreempted(Preempted):
    """All workers have saved the same step and stop."""

    shared = True
