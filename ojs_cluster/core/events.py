"""Names of the events that this server emits. Lua scripts emit some by their text.

Spec: ojs-events, levels 0 and 1 and scheduling; ojs-rate-limiting 11.1;
ojs-backpressure 10.1; ojs-queue-config 10.1;
ojs-multi-tenancy 11.1.
"""

from __future__ import annotations

from typing import Final

JOB_ENQUEUED: Final = "job.enqueued"
JOB_STARTED: Final = "job.started"
JOB_COMPLETED: Final = "job.completed"
JOB_FAILED: Final = "job.failed"
JOB_DISCARDED: Final = "job.discarded"
JOB_RETRYING: Final = "job.retrying"
JOB_CANCELLED: Final = "job.cancelled"
JOB_HEARTBEAT: Final = "job.heartbeat"
JOB_PROGRESS: Final = "job.progress"
JOB_CHECKPOINTED: Final = "job.checkpointed"
JOB_SCHEDULED: Final = "job.scheduled"
JOB_EXPIRED: Final = "job.expired"
JOB_HELD: Final = "job.held"
"""The job of a paused agent waits for its resumption. No event of the specification says so."""
PROBLEM_BEGAN: Final = "problem.began"
PROBLEM_ENDED: Final = "problem.ended"
"""What operators see as a problem. No events of the specification say so."""
WORKFLOW_STARTED: Final = "workflow.started"
WORKFLOW_STEP_COMPLETED: Final = "workflow.step_completed"
WORKFLOW_COMPLETED: Final = "workflow.completed"
WORKFLOW_FAILED: Final = "workflow.failed"
CRON_TRIGGERED: Final = "cron.triggered"
CRON_SKIPPED: Final = "cron.skipped"
QUEUE_CREATED: Final = "queue.created"
QUEUE_DELETED: Final = "queue.deleted"
QUEUE_PAUSED: Final = "queue.paused"
QUEUE_RESUMED: Final = "queue.resumed"
TENANT_CREATED: Final = "tenant.created"
TENANT_LIMIT_EXCEEDED: Final = "tenant.limit_exceeded"
RATE_LIMIT_EXCEEDED: Final = "rate_limit.exceeded"
RATE_LIMIT_RELEASED: Final = "rate_limit.released"
RATE_LIMIT_DROPPED: Final = "rate_limit.dropped"
RATE_LIMIT_ADJUSTED: Final = "rate_limit.dynamic_adjusted"
BACKPRESSURE_CLEARED: Final = "backpressure.cleared"
BACKPRESSURE_DROPPED: Final = "backpressure.dropped"
BACKPRESSURE_REJECTED: Final = "backpressure.rejected"
BACKPRESSURE_WARNING: Final = "backpressure.warning"

NAMES: Final = frozenset(
    {
        JOB_ENQUEUED,
        JOB_STARTED,
        JOB_COMPLETED,
        JOB_FAILED,
        JOB_DISCARDED,
        JOB_RETRYING,
        JOB_CANCELLED,
        JOB_HEARTBEAT,
        JOB_PROGRESS,
        JOB_CHECKPOINTED,
        JOB_SCHEDULED,
        JOB_EXPIRED,
        JOB_HELD,
        PROBLEM_BEGAN,
        PROBLEM_ENDED,
        WORKFLOW_STARTED,
        WORKFLOW_STEP_COMPLETED,
        WORKFLOW_COMPLETED,
        WORKFLOW_FAILED,
        CRON_TRIGGERED,
        CRON_SKIPPED,
        QUEUE_CREATED,
        QUEUE_DELETED,
        QUEUE_PAUSED,
        QUEUE_RESUMED,
        TENANT_CREATED,
        TENANT_LIMIT_EXCEEDED,
        RATE_LIMIT_EXCEEDED,
        RATE_LIMIT_RELEASED,
        RATE_LIMIT_DROPPED,
        RATE_LIMIT_ADJUSTED,
        BACKPRESSURE_CLEARED,
        BACKPRESSURE_DROPPED,
        BACKPRESSURE_REJECTED,
        BACKPRESSURE_WARNING,
    }
)
