"""The attacks of HTTP/2 once more over TLS: negotiated in the handshake, and by prior knowledge.

A connection that negotiates HTTP/2 reaches hypercorn without the fast lane. One that negotiates
nothing is read by the fast lane first, where there is one. All attacks of a variant share a server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import entry_points
from tests.security import test_http2 as clear
from tests.security import test_http2_frames as frames
from tests.support.certificates import Certificates

VARIANTS = {"alpn": ("h2", True), "no-alpn-lane": (None, True), "no-alpn-hypercorn": (None, False)}
"""What the handshake offers, and whether the fast lane is there."""


@pytest.fixture(params=VARIANTS)
def lane(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[bool]:
    """Connect by TLS, as the variant says. Return whether the server has a fast lane."""
    entry_points.tls = certificates
    entry_points.alpn, has_lane = VARIANTS[request.param]
    yield has_lane
    entry_points.tls = entry_points.alpn = None


ATTACKS: list[Callable[[int], Awaitable[None]]] = [
    clear.test_headers_that_unpack_to_more_than_their_bound_end_the_connection,
    clear.test_a_connection_of_refused_requests_ends_after_a_few,
    clear.test_a_rapid_reset_ends_the_connection,
    clear.test_a_flood_of_empty_data_ends_the_connection,
    clear.test_the_rest_of_a_refused_body_ends_no_other_stream,
    frames.test_unknown_settings_are_not_stored,
    frames.test_a_frame_larger_than_allowed_is_not_collected,
    frames.test_padding_is_no_data,
    frames.test_an_unchecked_header_does_not_count_as_a_key,
]


async def test_what_ends_a_connection_in_clear_text_ends_it_over_tls(
    standalone: Embedded, lane: bool
) -> None:
    async with clear.served(standalone, lane=lane) as port:
        for attack in ATTACKS:
            await attack(port)
        for flood in clear.FLOODS:
            await clear.test_a_flood_of_frames_ends_the_connection(port, flood)
        for octet in (b"\x20", b"\x00"):
            await frames.test_a_header_block_of_many_frames_is_bounded(port, octet)


async def test_a_malformed_request_ends_its_stream_alone_over_tls(
    standalone: Embedded, lane: bool
) -> None:
    async with clear.served(standalone, lane=lane) as port:
        for kind in clear.MALFORMED:
            await clear.test_a_malformed_request_ends_its_stream_alone(port, kind)
        await clear.test_a_body_of_another_length_than_announced_ends_its_stream_alone(port, b"x")


async def test_amplification_is_bounded_over_tls(standalone: Embedded, lane: bool) -> None:
    async with clear.served(standalone, lane=lane) as port:
        await clear.test_the_amplification_of_many_connections_is_bounded(port)


async def test_connections_end_in_time_over_tls(standalone: Embedded, lane: bool) -> None:
    """Connections without a request, with a slow head, and those left when the server drains."""
    await clear.test_a_connection_that_asks_for_nothing_is_closed_in_time(standalone, lane)
    await clear.test_a_slow_head_is_closed_long_before_an_idle_connection(standalone, lane, b"G")
    if lane:
        await clear.test_a_drain_does_not_wait_for_a_connection_without_a_stream(standalone)


async def test_http2_that_was_not_negotiated_is_off_unless_asked_for(
    standalone: Embedded, lane: bool
) -> None:
    """OJS_H2C decides over TLS, too, where the handshake has not chosen HTTP/2."""
    entry_points.alpn = None
    await clear.test_http2_in_clear_text_is_off_unless_asked_for(standalone, lane)
