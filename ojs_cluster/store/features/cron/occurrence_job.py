"""Make the job of a cron occurrence from the stored definition."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.cron.cron_job import job_of_occurrence
from ojs_cluster.core.errors import ArgsRefused, OJSError
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.payload_limits import STORED_LIMITS
from ojs_cluster.store.ground.off_loop import off_loop

_MAX_REASON: Final = 200
"""Maximum number of characters of a reason in the history."""


class UnusableDefinition(Exception):
    """No job can be made from a stored definition.

    Attributes:
        error: the error that was raised when the definition was parsed.
    """

    def __init__(self, error: Exception) -> None:
        """Wrap ``error``."""
        super().__init__(str(error))
        self.error = error

    @property
    def reason(self) -> str:
        """The error as one short line of text that Redis can store."""
        error = self.error
        if isinstance(error, ArgsRefused):  # its message has values, which do not belong in logs
            return f"the args do not match their schema at {error.details['pointer']}"[:_MAX_REASON]
        text = error.message if isinstance(error, OJSError) else repr(error)
        line = " ".join(text.split())[:_MAX_REASON]
        return line.encode(errors="replace").decode() or type(error).__name__


async def make_job(name: str, job: bytes, occurrence_ms: int) -> NewJob:
    """Make the job of an occurrence.

    The limits of requests do not apply, because the definition may be older than the present
    settings.

    Args:
        name: name of the cron job.
        job: the members of the enqueue request, as the definition has them.
        occurrence_ms: Unix time of the occurrence in ms.

    Raises:
        UnusableDefinition: no job can be made, now or later, because ``job`` is unusable.
    """

    def make() -> NewJob | UnusableDefinition:
        try:
            return job_of_occurrence(job, name, occurrence_ms, limits=STORED_LIMITS)
        except MemoryError:
            raise
        except Exception as error:  # any error: each attempt would raise it again
            return UnusableDefinition(error)

    # An error of off_loop itself, such as a lack of threads, may not happen at the next attempt.
    result = await off_loop(make, len(job))
    if isinstance(result, UnusableDefinition):
        raise result from result.error
    return result
