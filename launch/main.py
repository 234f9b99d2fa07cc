"""Runs a command, and turns its errors into messages and exit statuses."""

import sys

import click

from core import workers
from core.errors import OtherWorkerEnded, Preempted, RunError, UserError
from launch import sagemaker, supervisor


def exit_status(main: click.Command) -> int:
    """Runs `main` in this process. A user's mistake becomes one message and status 2."""
    try:
        main(**sagemaker.start())
    except UserError as error:
        speak(str(error), 2, shared=error.shared)
        return 2
    except RunError as error:
        speak(str(error) + supervisor.how_to_resume(), 1, shared=True)
        return 1
    except Preempted as error:
        if error.shared or workers.current().is_first:
            message = str(error) + supervisor.how_to_resume()
            speak(message, supervisor.STOPPED, shared=True, kind="")
        return supervisor.STOPPED
    except OtherWorkerEnded as error:
        supervisor.board.note(reason=str(error))
        return supervisor.OTHER_ENDED
    except OSError as error:  # a disk or a network file system
        where = f"'{error.filename}': " if error.filename else ""
        speak(f"{where}{error.strerror or error}{supervisor.how_to_resume()}", 1, shared=False)
        return 1
    return 0


def speak(message: str, status: int, shared: bool, kind: str = "error: ") -> None:
    """Prints a message once: on rank 0 for all workers, or as this worker's own.

    Rank 0 ends first. Otherwise the launcher would end it before it has printed.
    """
    from tqdm.auto import tqdm

    team = workers.current()
    if not shared and team.size > 1:
        message = f"worker {team.rank}: {message}"
    if not team.is_first:  # rank 0 may not have the same error, and may not end
        supervisor.wait_to_be_ended(supervisor.SILENCE_SECONDS if shared else 4.0, status)
    if team.is_first or not shared:
        tqdm.write(f"recipe.py: {kind}{message}", file=sys.stderr)  # not into the bar
        if kind:
            sagemaker.note_failure(message)
