"""Who may use the routes of the tables.

A name begins with the scope: READ, WRITE and WORK are the scopes ``data:read``, ``data:write`` and
``worker``, PURGE is ``admin:purge``. It goes on with what is accessed: nothing for the whole
cluster, BY_HANDLER for queues or jobs that the handler finds in the body, the query or the data and
checks against ``Request.queues`` itself, NO_QUEUE for no data of a queue. A name that ends with
OF_TENANT also serves a request for one tenant where another one would refuse it.

The tables of routes import this module as ``a``, and ``openapi.parameters`` as ``p``.
"""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.routing.router import Access, QueueAccess, TenantAccess

OPEN: Final = Access(open=True)
READ: Final = Access(Scope.DATA_READ)
READ_CRON: Final = Access(Scope.DATA_READ, QueueAccess.CRON)
READ_JOB: Final = Access(Scope.DATA_READ, QueueAccess.JOB)
READ_BY_HANDLER: Final = Access(Scope.DATA_READ, QueueAccess.HANDLER, TenantAccess.REFUSED)
READ_BY_HANDLER_OF_TENANT: Final = Access(
    Scope.DATA_READ, QueueAccess.HANDLER, TenantAccess.HANDLER
)
READ_NO_QUEUE: Final = Access(Scope.DATA_READ, QueueAccess.NONE, TenantAccess.NONE)
READ_QUEUE: Final = Access(Scope.DATA_READ, QueueAccess.QUEUE, TenantAccess.REFUSED)
READ_QUEUE_OF_TENANT: Final = Access(Scope.DATA_READ, QueueAccess.QUEUE, TenantAccess.HANDLER)
READ_WORKFLOW: Final = Access(Scope.DATA_READ, QueueAccess.WORKFLOW)
WRITE_CRON: Final = Access(Scope.DATA_WRITE, QueueAccess.CRON)
WRITE_JOB: Final = Access(Scope.DATA_WRITE, QueueAccess.JOB)
WRITE_BY_HANDLER_OF_TENANT: Final = Access(
    Scope.DATA_WRITE, QueueAccess.HANDLER, TenantAccess.HANDLER
)
WRITE_WORKFLOW: Final = Access(Scope.DATA_WRITE, QueueAccess.WORKFLOW)
WORK_JOB: Final = Access(Scope.WORKER, QueueAccess.JOB)
WORK_BY_HANDLER_OF_TENANT: Final = Access(Scope.WORKER, QueueAccess.HANDLER, TenantAccess.HANDLER)
WORK_NO_QUEUE: Final = Access(Scope.WORKER, QueueAccess.NONE, TenantAccess.NONE)
ADMIN_READ: Final = Access(Scope.ADMIN_READ)
ADMIN_READ_JOB: Final = Access(Scope.ADMIN_READ, QueueAccess.JOB)
ADMIN_READ_BY_HANDLER: Final = Access(Scope.ADMIN_READ, QueueAccess.HANDLER, TenantAccess.REFUSED)
ADMIN_READ_BY_HANDLER_OF_TENANT: Final = Access(
    Scope.ADMIN_READ, QueueAccess.HANDLER, TenantAccess.HANDLER
)
ADMIN_READ_NO_QUEUE: Final = Access(Scope.ADMIN_READ, QueueAccess.NONE, TenantAccess.NONE)
ADMIN_READ_OF_TENANT: Final = Access(Scope.ADMIN_READ, QueueAccess.CLUSTER, TenantAccess.HANDLER)
ADMIN_READ_QUEUE: Final = Access(Scope.ADMIN_READ, QueueAccess.QUEUE, TenantAccess.REFUSED)
ADMIN_WRITE: Final = Access(Scope.ADMIN_WRITE)
ADMIN_WRITE_JOB: Final = Access(Scope.ADMIN_WRITE, QueueAccess.JOB)
ADMIN_WRITE_BY_HANDLER: Final = Access(Scope.ADMIN_WRITE, QueueAccess.HANDLER, TenantAccess.REFUSED)
ADMIN_WRITE_BY_HANDLER_OF_TENANT: Final = Access(
    Scope.ADMIN_WRITE, QueueAccess.HANDLER, TenantAccess.HANDLER
)
ADMIN_WRITE_QUEUE: Final = Access(Scope.ADMIN_WRITE, QueueAccess.QUEUE, TenantAccess.REFUSED)
PURGE: Final = Access(Scope.ADMIN_PURGE)
PURGE_JOB: Final = Access(Scope.ADMIN_PURGE, QueueAccess.JOB)
PURGE_BY_HANDLER_OF_TENANT: Final = Access(
    Scope.ADMIN_PURGE, QueueAccess.HANDLER, TenantAccess.HANDLER
)
PURGE_QUEUE_OF_TENANT: Final = Access(Scope.ADMIN_PURGE, QueueAccess.QUEUE, TenantAccess.HANDLER)
