"""What is sent of each event, and the ids from which clients go on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.http.push.announcements import Announcement
from ojs_cluster.http.push.channels import ALL, types_of
from ojs_cluster.http.push.frames import FrameEncoder
from ojs_cluster.http.websocket.messages import (
    MAX_CHANNELS,
    EventMessages,
    decode_resumed,
    error_message,
    read_message,
)
from ojs_cluster.store.features.events.new_event import NewEvent, new_event
from ojs_cluster.store.features.events.positions import decode_id, id_of, part_of
from ojs_cluster.store.features.events.subscriber import (
    BufferBudget,
    Channel,
    Subscriber,
    Subscription,
)

SHARD = 3
JOB = "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee"


def event(kind: str, number: int, **more: str) -> NewEvent:
    """The event of the entry with this number; keywords are further fields of the entry."""
    fields = {"t": kind, "j": JOB, "y": "mail.send", "q": "mail", **more}
    raw = {name.encode(): value.encode() for name, value in fields.items()}
    return new_event(SHARD, (number, 0, 0), (number, 0, None), raw)


def subscribed(channel: Channel, *types: str) -> Subscription:
    subscriber = Subscriber(BufferBudget(10**6, 100))
    subscriber.reached = {SHARD: part_of(SHARD, (1, 0, None))}
    return Subscription(subscriber, channel, types)


def sent(subscription: Subscription, *events: NewEvent) -> tuple[list[tuple[str, str]], bool]:
    """Return the kind and id of each frame, and whether the stream has ended."""
    encoder = FrameEncoder(subscription.subscriber)
    frames = encoder.items((subscription, each) for each in events).decode().split("\n\n")[:-1]
    fields = [dict(line.split(": ", 1) for line in frame.split("\n")) for frame in frames]
    return [(each["event"], each["id"]) for each in fields], encoder.ended


def test_the_last_event_of_a_job_ends_its_stream_and_says_so_in_its_id() -> None:
    subscription = subscribed(Channel(f"job:{JOB}", "job", JOB))
    found, ended = sent(subscription, event("job.completed", 2), event("job.enqueued", 3))
    assert [kind for kind, _ in found] == ["job.state_changed", "job.completed"]
    ids = [decode_id(text, 8) for _, text in found]
    assert [each and each.ended for each in ids] == [False, True]
    assert ended


def test_a_job_ends_its_stream_although_the_client_does_not_want_the_event() -> None:
    subscription = subscribed(Channel(f"job:{JOB}", "job", JOB), "job.progress")
    assert sent(subscription, event("job.completed", 2)) == ([], True)


def test_the_stream_of_a_queue_goes_on_after_the_end_of_a_job() -> None:
    subscription = subscribed(Channel("queue:mail", "queue", "mail"), "job.*")
    found, ended = sent(subscription, event("job.cancelled", 2), event("job.enqueued", 3))
    assert [kind for kind, _ in found] == ["job.cancelled", "job.enqueued"]
    assert not ended


def test_the_id_passes_events_that_the_client_does_not_want() -> None:
    subscription = subscribed(ALL, "queue.paused")
    assert sent(subscription, event("job.enqueued", 2)) == ([], False)
    assert subscription.subscriber.reached == {SHARD: part_of(SHARD, (2, 0, None))}


def test_an_expired_job_changes_its_state() -> None:
    [(kind, _)], _ = sent(
        subscribed(ALL, "job.state_changed"), event("job.expired", 2, f="pending")
    )
    assert kind == "job.state_changed"


def test_events_of_one_entry_have_ids_of_their_own() -> None:
    raw = {b"t": b"job.enqueued", b"j": JOB.encode(), b"y": b"t", b"q": b"q"}
    parts = [new_event(SHARD, (1, 0, n), (1, 0, n + 1), raw).event_id for n in range(2)]
    assert len(set(parts)) == 2


def test_a_heartbeat_tells_the_position() -> None:
    encoder = FrameEncoder(subscribed(ALL).subscriber)
    assert encoder.position() == b"id: %b\n\n" % id_of([part_of(SHARD, (1, 0, None))])


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


def id_in(messages: EventMessages) -> str:
    text: str = json.loads(messages.event(None, Announcement("t", b"{}", 0)))["id"]
    return text


def test_an_id_names_no_channels_of_an_earlier_list() -> None:
    subscription = subscribed(ALL)
    messages = EventMessages(subscription.subscriber)
    messages.name_channels({"all": subscription})
    assert ";" in id_in(messages)
    messages.name_channels({f"queue:{'q' * 90}{n}": subscription for n in range(MAX_CHANNELS)})
    assert ";" not in id_in(messages)


def test_an_id_with_more_channels_than_a_connection_may_have_is_unknown() -> None:
    subscriber = subscribed(ALL).subscriber
    for count, is_known in ((MAX_CHANNELS, True), (MAX_CHANNELS + 1, False)):
        messages = EventMessages(subscriber)
        messages.name_channels({f"job:{n}": subscribed(ALL) for n in range(count)})
        assert (decode_resumed(id_in(messages), 8) is not None) == is_known


def test_a_resumed_channel_keeps_its_types() -> None:
    subscription = subscribed(ALL, "job.started", "job.failed")
    messages = EventMessages(subscription.subscriber)
    messages.name_channels({"all": subscription})
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
