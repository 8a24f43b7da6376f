"""Save, return and delete the checkpoint of a job (spec: ojs-durable-execution)."""

from __future__ import annotations

import msgspec

from ojs_cluster.core.raw_json import Raw, join
from ojs_cluster.http import fields
from ojs_cluster.http.app import App
from ojs_cluster.http.handlers.workers.settle import lease_of
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode_large
from ojs_cluster.store.features.progress import checkpoints


class CheckpointBody(msgspec.Struct, frozen=True):
    """The body of a save. SDKs store ``step_index`` and ``metadata`` with the state."""

    state: msgspec.Raw
    worker_id: str | None = None
    lease_id: str | None = None
    step_index: int | None = None
    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decoder = msgspec.json.Decoder(CheckpointBody)


async def save(app: App, request: Request, job_id: str) -> Response:
    """Store a checkpoint of a job.

    (spec: ojs-durable-execution 4.1)
    """
    fields.job_id(job_id)
    body = await decode_large(_decoder, request, app.settings.limits, outer_levels=1)
    more: dict[str, Raw] = {}
    if body.step_index is not None:
        more["step_index"] = Raw(b"%d" % body.step_index)
    if not isinstance(body.metadata, msgspec.UnsetType):
        more["metadata"] = body.metadata
    stored = await checkpoints.save(
        app.store,
        job_id,
        bytes(body.state),
        more=join(more),
        worker_id=fields.worker_id(body.worker_id),
        lease_id=lease_of(app, body.lease_id),
    )
    return _response(stored)


async def get(app: App, _request: Request, job_id: str) -> Response:
    """Return the checkpoint of a job.

    (spec: ojs-durable-execution 4.3)

    Raises:
        NotFound: the job does not exist, or has no checkpoint.
    """
    stored = await checkpoints.read_checkpoint(app.store, fields.job_id(job_id))
    if stored is None:
        raise checkpoints.missing(job_id)
    return _response(stored)


async def delete(app: App, _request: Request, job_id: str) -> Response:
    """Delete the checkpoint of a job; a job without one gets the same response.

    (spec: ojs-durable-execution 4.4)
    """
    await checkpoints.delete(app.store, fields.job_id(job_id))
    return Response(200, b'{"deleted":true,"job_id":"%b"}' % job_id.encode())


async def resume(app: App, _request: Request, job_id: str) -> Response:
    """Return whether a job has a checkpoint, and the checkpoint."""
    stored = await checkpoints.read_checkpoint(app.store, fields.job_id(job_id))
    if stored is None:
        return Response(200, b'{"has_checkpoint":false,"checkpoint":null}')
    return Response(200, b'{"has_checkpoint":true,"checkpoint":{%b}}' % stored.members())


def _response(stored: checkpoints.Checkpoint) -> Response:
    members = stored.members()
    return Response(200, b'{%b,"checkpoint":{%b}}' % (members, members))
