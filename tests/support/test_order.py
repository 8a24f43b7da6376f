"""Which variants of tests run, and in what order."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path

import pytest

from tests.containers.machine import lacking
from tests.support.failing_process import MODES
from tests.support.order import (
    COVERED,
    FEW,
    IN_CONTAINERS,
    INSTALLATIONS,
    LONG,
    ONE,
    ONE_EACH,
    OTHER_USERS,
    SALT,
    SERVERS,
    chosen,
    is_wanted,
    rank,
)

FILE = "tests/http/test_a.py::test_b"
AXES = (("standalone", "cluster"), ("hypercorn", "lane"), ("asyncio", "trio"))


@pytest.fixture(autouse=True)
def same_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SALT, "")  # how evenly a hash divides a hundred names differs by salt


def test_all_pairs_of_values_run() -> None:
    names = ["-".join(values) for values in product(*AXES)]
    wanted = [name.split("-") for name in names if is_wanted(f"{FILE}[{name}-7]")]
    assert len(wanted) == 4
    for one, other in combinations(range(3), 2):
        pairs = {(values[one], values[other]) for values in wanted}
        assert pairs == set(product(AXES[one], AXES[other]))


def test_each_value_of_two_parameters_and_all_of_one_run() -> None:
    names = ["-".join(values) for values in product(AXES[0], AXES[2])]
    wanted = [name for name in names if is_wanted(f"{FILE}[{name}]")]
    assert wanted in (
        ["standalone-asyncio", "cluster-trio"],
        ["standalone-trio", "cluster-asyncio"],
    )
    for name in ("lane", "hypercorn", "fake-trio", "a-b"):
        assert is_wanted(f"{FILE}[{name}]"), name
    assert is_wanted(FILE)
    assert all(is_wanted(f"tests/chaos/test_a.py::test_b[{each}-1]") for each in AXES[0])


def test_each_test_runs_with_one_value_of_its_only_parameter_and_half_of_them_with_each() -> None:
    for prefixes, values in ONE_EACH:
        for prefix in prefixes:
            assert Path(prefix).is_dir()
            runs = {
                value: {n for n in range(100) if is_wanted(f"{prefix}test_a.py::test_{n}[{value}]")}
                for value in values
            }
            assert runs[values[0]] ^ runs[values[1]] == set(range(100))
            assert min(map(len, runs.values())) > 25


def test_another_salt_runs_others_and_the_same_salt_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {f"{FILE}{n}[{topology}]" for n in range(100) for topology in AXES[0]}

    def half(salt: str) -> set[str]:
        monkeypatch.setenv(SALT, salt)
        return chosen(names)

    assert half("3.13 one") == half("3.13 one")
    for other in ("3.13 two", "3.12 one"):
        assert 25 < len(half("3.13 one") & half(other)) < 75, "neither the same nor all the others"


def test_a_test_with_one_value_alone_runs() -> None:
    tests = [f"tests/server/test_a.py::test_{n}[{AXES[0][n % 2]}]" for n in range(20)]
    assert not all(map(is_wanted, tests))
    assert chosen(tests) == set(tests)
    assert chosen([f"{COVERED[0]}test_a[1]"]) == set()


def test_all_deaths_of_a_deletion_are_on_a_standalone_server() -> None:
    test = "test_a_deletion_with_jobs_finishes_after_any_death"
    file = "tests/crash/test_maintenance_deaths.py"
    assert f"def {test}(" in Path(file).read_text()
    assert is_wanted(f"{file}::{test}[standalone-x]")
    assert not is_wanted(f"{file}::{test}[cluster-x]")


def test_each_test_of_the_store_runs_on_one_topology_and_half_of_them_on_each() -> None:
    for prefix in ("tests/store/jobs/test_a.py::test_", "tests/crash/test_a.py::test_"):
        on = {
            topology: {n for n in range(100) if is_wanted(f"{prefix}{n}[{topology}-lane-x]")}
            for topology in AXES[0]
        }
        assert on["standalone"] ^ on["cluster"] == set(range(100))
        assert min(map(len, on.values())) > 25
        assert is_wanted(f"{prefix}1[x]")


def test_each_test_of_the_store_runs_on_one_server() -> None:
    test = "tests/store/scripts/test_a.py::test_"
    for kind in ("", "-plain"):
        on = {
            server: {n for n in range(100) if is_wanted(f"{test}{n}[{server}{kind}]")}
            for server in SERVERS
        }
        assert on["auto"] ^ on["redis-server"] == set(range(100))
        assert min(map(len, on.values())) > 25


def test_each_operation_has_one_way_to_die_and_each_way_occurs() -> None:
    prefix = "tests/crash/test_a.py::test_b"
    topology = next(each for each in AXES[0] if is_wanted(f"{prefix}[{each}-x]"))
    ways = {
        way: {n for n in range(100) if is_wanted(f"{prefix}[{topology}-a move-{n}-{way}]")}
        for way in MODES
    }
    assert sum(map(len, ways.values())) == len(set[int].union(*ways.values())) == 100
    assert min(map(len, ways.values())) > 15


def test_half_of_the_suites_run_in_one_of_the_installations_beside_the_cluster() -> None:
    files = [*INSTALLATIONS, "tests/conformance/test_on_valkey_cluster.py"]
    assert all(Path(file).exists() for file in files)
    suites = {
        file: {n for n in range(100) if is_wanted(f"{file}::test_suite[level-0-core/{n}.json]")}
        for file in files
    }
    assert suites.pop(files[-1]) == set(range(100))
    twice = len(set[int].union(*suites.values()))
    assert sum(map(len, suites.values())) == twice
    assert 40 <= twice <= 60
    assert min(map(len, suites.values())) > 9
    assert all(is_wanted(f"{file}::test_that_each_suite_is_known") for file in files)


def test_of_expensive_tests_each_value_runs() -> None:
    ids = list(product(["a", "b", "c"], ["x", "y"], ["x", "z"]))
    for test in FEW:
        there = {f"{test}_end[{'-'.join(values)}]" for values in ids}
        runs = [each.partition("[")[2].rstrip("]").split("-") for each in chosen(there)]
        assert len(runs) < len(ids) / 2
        for number, values in enumerate(zip(*ids, strict=True)):
            assert {each[number] for each in runs} == set(values)


def test_of_more_expensive_tests_one_variant_runs() -> None:
    for test in ONE:
        there = {f"{test}_end[{name}]" for name in ("killed", "applied", "deaf")}
        assert len(chosen(there)) == 1
        assert chosen({f"{test}_end"}) == {f"{test}_end"}


def test_the_tests_with_fewer_variants_exist() -> None:
    for beginning in (*FEW, *ONE):
        file, _, name = beginning.partition("::")
        text = Path(file).read_text()
        assert f"def {name}" in text
        assert "parametrize" in text or "params=" in text


def test_what_is_left_out_exists() -> None:
    for left_out in COVERED:
        file, _, name = left_out.partition("::")
        assert f"def {name}" in Path(file).read_text()
        assert not is_wanted(f"{left_out}x[1]")
    users = Path("tests/containers/conftest.py").read_text()
    assert f'"{OTHER_USERS[1:-1]}"' in users
    assert not is_wanted(f"tests/containers/test_a.py::test_b{OTHER_USERS}")


def test_the_image_is_built_in_containers_or_without_them() -> None:
    file, _, name = IN_CONTAINERS.partition("::")
    assert f"def {name}" in Path(file).read_text()
    assert is_wanted(f"{IN_CONTAINERS}x[plain]") == bool(lacking())


def test_the_long_files_exist() -> None:
    for prefix in LONG:
        assert list(Path().glob(f"{prefix}*"))


def test_long_files_come_first_and_files_stay_whole() -> None:
    chaos, kill = "tests/chaos/test_chaos.py::test_a", "tests/kill/library/test_b.py::test_c"
    assert rank(chaos) < rank(kill) < rank(FILE)
    assert rank(FILE) == rank("tests/http/test_a.py::test_c[x]")
    assert rank(FILE) != rank("tests/http/test_b.py::test_b")
    assert rank("tests/ui/test_a.py::test_b") == rank("tests/ui/test_c.py::test_d")
