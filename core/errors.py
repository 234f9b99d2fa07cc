"""The errors that are the user's to mend: one or two lines, never a traceback."""


class UserError(ValueError):
    """A mistake in a recipe, a command line or a run folder.

    The message, one or two lines, names the file, key or worker, what was received and
    what to do. Command lines print it, on one worker, and end with status 2.

    Attributes:
        shared: every worker raises it, so that only rank 0 has to speak.
    """

    shared = False


class DataError(UserError):
    """A mistake in the user's data, or in the arguments that point to them."""


class SharedUserError(UserError):
    """A `UserError` of one worker or more that all workers raise together."""

    shared = True


class RunError(RuntimeError):
    """A run that cannot go on, through nobody's mistake on the command line.

    Raised by all workers together; `recipe.py` prints the message on rank 0 and ends
    with status 1.
    """


class OtherWorkerEnded(RuntimeError):
    """Horovod broke a collective off; its reason is the message.

    As a rule another worker has ended, and has said why. Where none has, the supervisor
    passes the reason on.
    """


class Preempted(RuntimeError):
    """The run was asked to stop by a signal, and did; `recipe.py` ends with status 75.

    Attributes:
        shared: every worker raises it, with everything saved; without it, each raises its
            own when the signal comes to it.
    """

    shared = False


class SharedPreempted(Preempted):
    """All workers have saved the same step and stop."""

    shared = True
