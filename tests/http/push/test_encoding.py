"""What is sent of each event, and the ids from which clients go on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.http.push.announcements import Announcement
from ojs_cluster.http.push.channels import ALL, types_of
from ojs_cluster.http.push.frames import FrameEncoder, position_block
from ojs_cluster.http.websocket.messages import (
    MAX_CHANNELS,
    EventMessages,
    decode_resumed,
    error_message,
    read_message,
)
from ojs_cluster.store.features.events.new_event import NewEvent, new_event
from ojs_cluster.store.features.events.positions import decode_id, id_of, part_of
from ojs_cluster.store.features.events.subscriber import Channel, Subscription

SHARD = 3
JOB = "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee"


def event(kind: str, number: int, **more: str) -> NewEvent:
    """The event of the entry with this number; keywords are further fields of the entry."""
    fields = {"t": kind, "j": JOB, "y": "mail.send", "q": "mail", **more}
    raw = {name.encode(): value.encode() for name, value in fields.items()}
    return new_event(SHARD, (number, 0, 0), (number, 0, None), raw)


def encoder() -> FrameEncoder:
    new = FrameEncoder()
    new.reached = {SHARD: part_of(SHARD, (1, 0, None))}
    return new


def sent(
    channel: Channel, types: tuple[str, ...], *events: NewEvent
) -> tuple[list[tuple[str, str]], FrameEncoder]:
    """Return the kind and id of each frame, and the encoder."""
    subscription, used = Subscription(channel, types), encoder()
    frames = used.items((subscription, each) for each in events).decode().split("\n\n")[:-1]
    fields = [dict(line.split(": ", 1) for line in frame.split("\n")) for frame in frames]
    return [(each["event"], each["id"]) for each in fields], used


def test_the_last_event_of_a_job_ends_its_stream_and_says_so_in_its_id() -> None:
    channel = Channel(f"job:{JOB}", "job", JOB)
    found, used = sent(channel, (), event("job.completed", 2), event("job.enqueued", 3))
    assert [kind for kind, _ in found] == ["job.state_changed", "job.completed"]
    ids = [decode_id(text, 8) for _, text in found]
    assert [each and each.ended for each in ids] == [False, True]
    assert used.ended


def test_a_job_ends_its_stream_although_the_client_does_not_want_the_event() -> None:
    channel = Channel(f"job:{JOB}", "job", JOB)
    found, used = sent(channel, ("job.progress",), event("job.completed", 2))
    assert (found, used.ended) == ([], True)


def test_the_stream_of_a_queue_goes_on_after_the_end_of_a_job() -> None:
    channel = Channel("queue:mail", "queue", "mail")
    found, used = sent(channel, ("job.*",), event("job.cancelled", 2), event("job.enqueued", 3))
    assert [kind for kind, _ in found] == ["job.cancelled", "job.enqueued"]
    assert not used.ended


def test_the_id_passes_events_that_the_client_does_not_want() -> None:
    found, used = sent(ALL, ("queue.paused",), event("job.enqueued", 2))
    assert (found, used.ended) == ([], False)
    assert used.reached == {SHARD: part_of(SHARD, (2, 0, None))}


def test_an_expired_job_changes_its_state() -> None:
    [(kind, _)], _ = sent(ALL, ("job.state_changed",), event("job.expired", 2, f="pending"))
    assert kind == "job.state_changed"


def test_events_of_one_entry_have_ids_of_their_own() -> None:
    raw = {b"t": b"job.enqueued", b"j": JOB.encode(), b"y": b"t", b"q": b"q"}
    parts = [new_event(SHARD, (1, 0, n), (1, 0, n + 1), raw).event_id for n in range(2)]
    assert len(set(parts)) == 2


def test_a_heartbeat_tells_the_position() -> None:
    block = position_block(encoder().position)
    assert block == b"id: %b\n\n" % id_of([part_of(SHARD, (1, 0, None))])


@pytest.mark.parametrize("name", ["types", "event_types", "type"])
def test_each_name_of_the_types_is_read(name: str) -> None:
    assert types_of({name: "job.started,job.failed"}) == {"job.started", "job.failed"}


def test_an_id_of_the_last_shard_and_of_the_meta_tag_is_known() -> None:
    for index in (-1, 7):
        found = decode_id(part_of(index, (1, 0, None)).decode(), 8)
        assert found is not None
        assert list(found.starts) == [index]
    assert decode_id(part_of(8, (1, 0, None)).decode(), 8) is None


def test_a_new_partition_is_read_from_before_the_clock_skew() -> None:
    found = decode_id(part_of(1, (100_000, 0, None)).decode(), 8)
    assert found is not None
    starts = found.starts_of([1, 2])
    assert starts is not None
    assert starts[2].position[0] == 80_000
    assert starts[2].approximate


def messages_of(*subscriptions: Subscription) -> EventMessages:
    messages = EventMessages()
    messages.reached = {SHARD: part_of(SHARD, (1, 0, None))}
    messages.name_channels(subscriptions)
    return messages


def id_in(messages: EventMessages) -> str:
    text: str = json.loads(messages.event(None, Announcement("t", b"{}", 0)))["id"]
    return text


def job_channels(count: int, length: int = 1) -> list[Subscription]:
    names = [f"job:{'q' * length}{n}" for n in range(count)]
    return [Subscription(Channel(name, "job", name)) for name in names]


def test_an_id_names_no_channels_of_an_earlier_list() -> None:
    messages = messages_of(Subscription(ALL))
    assert ";" in id_in(messages)
    messages.name_channels(job_channels(MAX_CHANNELS, length=90))
    assert ";" not in id_in(messages)


def test_an_id_with_more_channels_than_a_connection_may_have_is_unknown() -> None:
    for count, is_known in ((MAX_CHANNELS, True), (MAX_CHANNELS + 1, False)):
        found = decode_resumed(id_in(messages_of(*job_channels(count))), 8)
        assert (found is not None) == is_known


def test_a_resumed_channel_keeps_its_types() -> None:
    messages = messages_of(Subscription(ALL, ("job.started", "job.failed")))
    found = decode_resumed(id_in(messages), 8)
    assert found is not None
    assert found[1] == [("all", ["job.failed", "job.started"])]


def test_an_error_names_its_channel_up_to_a_length() -> None:
    error = InvalidRequest("no")
    assert json.loads(error_message(error, "queue:q"))["channel"] == "queue:q"
    assert len(json.loads(error_message(error, "x" * 5000))["channel"]) == 300
    assert "channel" not in json.loads(error_message(error, ""))


def test_the_admin_ui_names_the_action_otherwise() -> None:
    message: Any = read_message('{"type": "subscribe", "channel": "all"}')
    assert (message.action, message.type, message.channel) == ("", "subscribe", "all")
