"""List the unique locks, as the admin UI shows them."""

from __future__ import annotations

from ojs_cluster.http import query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.cursor_kinds import LOCKS
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.shapes.jobs import UniqueLock, UniqueLocks
from ojs_cluster.store.engine.unique.list_locks import HeldLock, list_locks


async def list_unique_jobs(app: App, request: Request) -> Response:
    """List the jobs that hold a unique lock.

    A page may have fewer entries than its size, because a lock may have no holder any more.
    """
    page = query.numbered_page(query.parameters(request.query), LOCKS)
    found, total, last = await list_locks(
        app.store, limit=page.limit, offset=page.offset, after=page.after
    )
    pages = query.pagination(page, len(found), total, last)
    members = UniqueLocks(items=[_shown(lock) for lock in found], pagination=pages)
    return replies.json_response(200, members)


def _shown(lock: HeldLock) -> UniqueLock:
    shown: UniqueLock = {
        "key": lock.fingerprint,
        "job_id": lock.job_id,
        "type": lock.type,
        "queue": lock.queue,
        "state": lock.state,
    }
    if lock.until_ms is not None:
        shown["locked_until"] = replies.iso(lock.until_ms)
    return shown
