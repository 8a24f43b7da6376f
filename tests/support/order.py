"""Which test files run in what order, and which variants of tests.

A parallel run assigns files to its processes one after the other. A file that waits for minutes
costs nothing while other files use the processor, but adds its whole length when it starts last.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterable
from functools import cache
from typing import Final, TypeVar

import pytest

from tests.support.failing_process import MODES

LONG: Final = (
    "tests/conformance/test_on_",
    "tests/chaos/test_chaos.py",
    "tests/kill/",
    "tests/upgrade/",
    "tests/readme/test_readme.py",
    "tests/containers/",
    "tests/crash/test_maintenance_deaths.py",
    "tests/loadtest/test_bench.py",
    "tests/security/test_costly_input.py",
    "tests/image/",
    "tests/server/test_supervisor.py",
    "tests/http/test_same_answers.py",
    "tests/http/test_tls.py",
    "tests/server/test_incidents.py",
    "tests/server/test_dying_workers.py",
    "tests/server/test_lost_masters.py",
    "tests/server/test_problem_watch.py",
    "tests/store/queues/test_partition_changes.py",
    "tests/http/test_malformed_keys.py",
    "tests/ui/test_browser.py",
    "tests/distributions/",
    "tests/scheduler/test_takeover.py",
    "tests/helm/test_valkey_cluster.py",
    "tests/scheduler/test_background.py",
    "tests/scheduler/test_cron.py",
    "tests/security/test_http2_tls.py",
)
"""Prefixes of files with long waits, which come first. The first measure times, so they need an
idle machine beside them. The next start enough processes that the first would be late. The last
take half a minute or more and would otherwise be among the last tenth of all files.
"""

TOGETHER: Final = ("tests/ui/",)
"""Prefixes of files that follow each other. They share servers whose recorded history grows old."""

VARIANTS: Final = "OJS_TEST_VARIANTS"
"""Variable that is ``some`` to leave out about half of the variants of tests, as ``make test``
does, and empty to run all.

Tests that others nearly cover are left out. Each test of the store and of crashes has one topology
and one server, half of them the one and half the other, and one way to die. Other tests have one
topology, one event loop or one version of Helm, if they have no other such parameter. Each
conformance suite runs on one cluster, and half of them on one of three other installations. Of the
tests with several of the parameters topology, entry point and event loop, half of the variants run:
each value occurs, and of three parameters each pair of values. Of tests that cost seconds a
variant, only one runs (``ONE``), or as few as have each value of each parameter (``FEW``).
"""
SALT: Final = "OJS_TEST_SALT"
"""Variable with any text, from which it follows which half of the variants runs. By default it is
the version of Python and the day, so that other versions and later days run others. pytest shows it
in its first lines. With it the choice of another run is repeated.
"""
TOPOLOGIES: Final = ("standalone", "cluster")
SERVERS: Final = ("auto", "redis-server")
"""Values of the parameter of store tests that run on Valkey and again on Redis."""
STORE: Final = ("tests/store/", "tests/crash/")
"""Prefixes of files whose tests have one topology each."""
ONE_EACH: Final = (
    (("tests/client_library/",), ("asyncio", "trio")),
    (("tests/helm/",), ("helm3", "helm4")),
    (
        ("tests/http/", "tests/model/", "tests/operations/", "tests/scheduler/", "tests/server/"),
        TOPOLOGIES,
    ),
)
"""Prefixes of files whose tests have one of two values each, if these are the only parameter of the
kind. Chaos and kill tests are not here: their faults depend on the topology.
"""
ON_STANDALONE: Final = "tests/crash/test_maintenance_deaths.py::test_a_deletion_with_jobs_"
"""Beginning of a test with hundreds of deaths. On a cluster it takes five times as long."""
INSTALLATIONS: Final = tuple(
    f"tests/conformance/test_on_{name}.py"
    for name in ("redis_cluster", "valkey_hypercorn", "valkey_standalone")
)
"""Files with the same conformance suites. Half of the suites run in one of them, the others only
on the cluster.
"""
COVERED: Final = (
    "tests/kill/test_kill_master.py::",  # chaos tests kill masters with both durabilities
    "tests/kill/test_kill_scheduler.py::",  # so do tests of takeovers, and chaos tests
    "tests/kill/test_kill_client_worker.py::test_no_job_is_lost_while_workers_die_in_every_way",
    "tests/kill/test_kill_client_worker.py::test_jobs_of_a_killed_worker_are_completed_by_another",
    "tests/kill/test_master_away.py::test_clients_of_other_shards_see_no_error_during_a_failover",
    "tests/loadtest/test_bench.py::test_workers_run_with_every_concurrency_on_both_loops",
)
"""Beginnings of slow tests that are left out, because a shorter one does nearly the same: the
chaos tests, that of the worker library, the one of a master without a replica, and the other
benchmarks.
"""
IN_CONTAINERS: Final = "tests/image/test_image.py::test_the_steps_"
"""Beginning of tests that install the image without containers. They are left out where
``tests/containers`` builds it and runs it as they do.
"""
FEW: Final = (
    "tests/helm/test_manifests.py::test_every_manifest_is_valid",
    "tests/http/access/test_certificates.py::test_a_certificate_has_the_rights_of_the_key_",
    "tests/security/test_costly_input.py::test_a_large_body_is_read_beside_the_event_loop",
    "tests/server/test_tracing.py::test_a_collector_that_is_away_harms_nothing",
    "tests/server/test_tracing.py::test_a_jobs_way_is_seen_by_a_collector",
    "tests/store/unique/test_replace.py::test_one_lives_whenever_the_producer_dies",
    "tests/store/unique/test_unique_steps.py::test_a_process_may_die_at_any_command_",
)
"""Beginnings of expensive tests with several parameters, of which so many variants run that each
value of each parameter occurs.
"""
ONE: Final = (
    "tests/crash/test_maintenance_deaths.py::test_a_deletion_with_jobs_finishes_after_any_death",
    "tests/image/test_compose.py::test_a_join_that_ended_half_way_is_completed",
    "tests/kill/test_kill_worker.py::test_jobs_of_a_killed_worker_are_run_by_another",
    "tests/security/test_http2.py::test_the_amplification_of_many_connections_is_bounded",
    "tests/security/test_http2_tls.py::test_amplification_is_bounded_over_tls",
    "tests/server/test_api_keys_file.py::test_a_changed_file_holds_without_a_restart",
    "tests/store/archive/test_archive.py::test_an_import_that_dies_at_any_command_can_be_repeated",
    "tests/store/limits/test_limit_deaths.py::test_a_process_may_die_at_any_command",
    "tests/store/queues/test_partition_changes.py::test_a_process_may_die_at_any_command_of_a_",
)
"""Beginnings of expensive tests of which one variant runs."""
OTHER_USERS: Final = "[users of OpenShift]"
"""A parameter of the container tests, which take minutes, that is left out."""
FIRST: Final = frozenset({"standalone", "hypercorn", "asyncio"})
SECOND: Final = frozenset({"cluster", "lane", "trio"})
"""The values of the parameters. The variants with an even number of the second ones run, or those
with an odd one.
"""
_Choice = TypeVar("_Choice", bound=str | int)


def pytest_configure() -> None:
    """Choose the variants for all processes of a parallel run, which start later."""
    today = time.strftime("%Y-%m-%d", time.gmtime())
    os.environ.setdefault(SALT, f"{sys.version_info.major}.{sys.version_info.minor} {today}")


def pytest_report_header() -> str | None:
    """Return the line that says which variants run."""
    return f"variants: {SALT}={os.environ[SALT]!r}" if os.environ.get(VARIANTS) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out unwanted variants, move long files to the front, and mix the others."""
    variants = os.environ.get(VARIANTS, "")
    if variants not in ("", "some"):
        raise pytest.UsageError(f"{VARIANTS} must be some or empty, not {variants!r}")
    if variants:
        wanted = chosen(item.nodeid for item in items)
        config.hook.pytest_deselected(items=[each for each in items if each.nodeid not in wanted])
        items[:] = [item for item in items if item.nodeid in wanted]
    items.sort(key=lambda item: rank(item.nodeid))


def chosen(node_ids: Iterable[str]) -> set[str]:
    """Return the tests that run if some are left out: of each at least one variant."""
    there = set(node_ids)
    wanted = {each for each in there if is_wanted(each)}
    tests = {_test(each) for each in wanted}
    wanted |= {each for each in there if _test(each) not in tests and not _covered(each)}
    for test in {_test(each) for each in wanted if each.startswith((*FEW, *ONE))}:
        variants = sorted(each for each in wanted if _test(each) == test)
        wanted.difference_update(variants)
        wanted.update(_few(variants) if test.startswith(FEW) else [_one_of(tuple(variants), test)])
    return wanted


def _few(variants: list[str]) -> list[str]:
    """Return some of the variants that have all values of all parameters of all of them."""
    left = {each: set(enumerate(_values(each))) for each in variants}
    found = []
    while any(left.values()):
        best = max(left, key=lambda each: len(left[each]))
        found.append(best)
        seen = left[best]
        left = {each: values - seen for each, values in left.items()}
    return found


def is_wanted(node_id: str) -> bool:
    """Return whether a test is among the variants that run if some are left out."""
    name, _, parameters = node_id.partition("[")
    values = _values(node_id)
    file = name.partition("::")[0]
    if _covered(node_id):
        return False
    if parameters and file in INSTALLATIONS:
        return file == _one_of((*INSTALLATIONS, *("",) * len(INSTALLATIONS)), parameters)
    if node_id.startswith(STORE):
        *others, last = values
        way = _one_of(MODES, "-".join(others)) if last in MODES else last
        if parameters.startswith(_other(SERVERS, name)):
            return False
        return last == way and _other(TOPOLOGIES, name) not in values
    first, second = (sum(value in kind for value in values) for kind in (FIRST, SECOND))
    if first + second > 1:
        return second % 2 == _one_of((0, 1), name)
    return all(
        _other(choices, name) not in values
        for prefixes, choices in ONE_EACH
        if file.startswith(prefixes)
    )


def _covered(node_id: str) -> bool:
    if node_id.startswith(IN_CONTAINERS):
        return _runs_containers()
    return node_id.startswith(COVERED) or node_id.endswith(OTHER_USERS)


@cache
def _runs_containers() -> bool:
    # Imported late: other tests need nothing of it.
    from tests.containers.machine import lacking

    return not lacking()


def _values(node_id: str) -> list[str]:
    return node_id.partition("[")[2].rstrip("]").split("-")


def _test(node_id: str) -> str:
    """Return the name of a test without its parameters."""
    return node_id.partition("[")[0]


def _other(choices: tuple[str, str], name: str) -> str:
    """Return the one of two values with which a test does not run."""
    if name.startswith(ON_STANDALONE) and choices == TOPOLOGIES:
        return choices[1]
    return _one_of(choices, name)


def _one_of(choices: tuple[_Choice, ...], text: str) -> _Choice:
    """Return the choice for a text. It is the same in all processes of a run."""
    return choices[_number(text + os.environ.get(SALT, "")) % len(choices)]


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())


def rank(node_id: str) -> tuple[int, int]:
    """Return the place of a test, which is the same for all tests of a file.

    Neighbouring files are alike: all wait, or all compute. Mixed, they keep the processors busy.
    """
    file = node_id.partition("::")[0]
    for number, name in enumerate(LONG):
        if file.startswith(name):
            return number, 0
    together = next((name for name in TOGETHER if file.startswith(name)), file)
    return len(LONG), _number(together)
