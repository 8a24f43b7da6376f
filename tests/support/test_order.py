"""Which variants of tests run, and in what order."""

from __future__ import annotations

from itertools import combinations, product

from tests.support.order import is_wanted, rank

FILE = "tests/http/test_a.py::test_b"
AXES = (("standalone", "cluster"), ("hypercorn", "lane"), ("asyncio", "trio"))


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
    assert wanted == ["standalone-asyncio", "cluster-trio"]
    for name in ("standalone", "lane", "fake-trio", "cluster-1", "a-b"):
        assert is_wanted(f"{FILE}[{name}]"), name
    assert is_wanted(FILE)


def test_each_test_of_the_store_runs_on_one_topology_and_half_of_them_on_each() -> None:
    for prefix in ("tests/store/jobs/test_a.py::test_", "tests/crash/test_a.py::test_"):
        on = {
            topology: {n for n in range(100) if is_wanted(f"{prefix}{n}[{topology}-lane-x]")}
            for topology in AXES[0]
        }
        assert on["standalone"] ^ on["cluster"] == set(range(100))
        assert min(map(len, on.values())) > 25
        assert is_wanted(f"{prefix}1[x]")


def test_long_files_come_first_and_files_stay_whole() -> None:
    chaos, kill = "tests/chaos/test_chaos.py::test_a", "tests/kill/library/test_b.py::test_c"
    assert rank(chaos) < rank(kill) < rank(FILE)
    assert rank(FILE) == rank("tests/http/test_a.py::test_c[x]")
    assert rank(FILE) != rank("tests/http/test_b.py::test_b")
    assert rank("tests/ui/test_a.py::test_b") == rank("tests/ui/test_c.py::test_d")
