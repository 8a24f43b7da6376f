"""Events and webhooks in responses."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from ojs_cluster.http.shapes.common import Count, Milliseconds, Moment, Pagination


class EventRecord(TypedDict):
    """An event (spec: ojs-events 3)."""

    specversion: str
    id: str
    type: str
    event: str
    source: str
    time: Moment
    timestamp: Moment
    subject: str
    datacontenttype: str
    data: dict[str, Any]


class EventList(TypedDict):
    """A page of events. ``gap`` is true if events after the cursor have been removed."""

    events: list[EventRecord]
    items: list[EventRecord]
    cursor: NotRequired[str | None]
    has_more: bool
    gap: NotRequired[bool]
    pagination: Pagination


class ShownFilter(TypedDict):
    """The queues and job types whose events the receiver gets."""

    queues: NotRequired[list[str]]
    job_types: NotRequired[list[str]]


class SubscriptionMembers(TypedDict):
    """A webhook subscription without its secret."""

    id: str
    url: str
    events: list[str]
    active: bool
    metadata: dict[str, Any]
    created_at: Moment
    updated_at: Moment
    filter: NotRequired[ShownFilter]
    disabled_reason: NotRequired[str]


class CountedSubscription(SubscriptionMembers):
    """A webhook subscription and the numbers of its deliveries."""

    success_count: Count
    failure_count: Count
    dead_count: Count
    dropped_count: Count
    last_delivery_at: NotRequired[Moment]
    last_delivery_status: NotRequired[str | int | None]
    failing_since: NotRequired[Moment]
    last_error: NotRequired[str]


class SecretSubscription(CountedSubscription):
    """A new webhook subscription with its secret."""

    secret: str


class SubscriptionCreated(SecretSubscription):
    """The subscription in ``subscription``, and its members again at the top level."""

    subscription: SecretSubscription


class SubscriptionAnswer(CountedSubscription):
    """The subscription in ``subscription``, and its members again at the top level."""

    subscription: CountedSubscription


class SubscriptionChanged(SubscriptionMembers):
    """The subscription in ``subscription``, and its members again at the top level."""

    subscription: SubscriptionMembers


class SubscriptionList(TypedDict):
    """A page of subscriptions, oldest first, under two names."""

    subscriptions: list[CountedSubscription]
    items: list[CountedSubscription]
    total: Count
    pagination: Pagination


class SubscriptionDeleted(TypedDict):
    """The subscription is deleted."""

    deleted: Literal[True]
    id: str


class SecretRotated(SubscriptionMembers):
    """The subscription and its new secret."""

    subscription: SubscriptionMembers
    secret: str
    new_secret: str
    previous_secret_expires_at: Moment | None


class DeliveryTested(TypedDict):
    """What the receiver answered to the test."""

    success: bool
    status_code: int | None
    status: int | None
    response_time_ms: Milliseconds
    response_body: str
    delivery_id: str
    error: NotRequired[str]


class DeliveryMembers(TypedDict):
    """A delivery of an event to a receiver."""

    id: str
    subscription_id: str
    event_type: str
    status: Literal["pending", "delivered", "dead"]
    attempts: Count
    status_code: int | None
    created_at: Moment
    last_attempt_at: Moment | None
    error: NotRequired[str]


class DeliveryList(TypedDict):
    """The newest deliveries, under two names."""

    deliveries: list[DeliveryMembers]
    items: list[DeliveryMembers]
    truncated: NotRequired[Literal[True]]


class DeliveryDetail(TypedDict):
    """A delivery and its event."""

    delivery: DeliveryMembers
    event: dict[str, Any]


class DeliveryRetried(DeliveryMembers):
    """The delivery in ``delivery``, and its members again at the top level."""

    delivery: DeliveryMembers
