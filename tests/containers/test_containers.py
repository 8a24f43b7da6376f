"""The image and the chart's own scripts as OCI containers, confined as the chart says."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path

import httpx
import pytest
import trio

from tests.containers import oci
from tests.containers.image import Builder, Image
from tests.containers.kubelet import PATIENCE_S, Pod
from tests.containers.machine import lacking
from tests.containers.oci import Container
from tests.containers.release import KEY, Release
from tests.image.shipped import assert_shipped
from tests.security.amplification import attack, processes
from tests.support.load import running_load

if PROBLEM := lacking():
    pytest.skip(f"containers need what this machine lacks: {PROBLEM}", allow_module_level=True)

CHARTS_USERS = pytest.mark.parametrize("release", ["the chart's users"], indirect=True)
"""For what does not depend on who a process runs as."""
AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}


_STAGES = """
FROM python:3.13-slim-trixie AS build
WORKDIR /src
COPY sent.txt kept/ ./
RUN test -f sent.txt && test -f one.txt && mkdir /made && {made}
FROM python:3.13-slim-trixie
COPY --from=build /made /made
{last}
USER 7:8
CMD ["true"]
"""


def build(
    folder: Path, python_base: Path, *, made: str = "true", last: str = "ENV A=b", ignored: str = ""
) -> Image:
    """Build a small Dockerfile with these steps in it."""
    context, stages = folder / "context", folder / "stages"
    shutil.rmtree(folder, ignore_errors=True)
    (context / "kept").mkdir(parents=True)
    stages.mkdir()
    (context / "Dockerfile").write_text(_STAGES.format(made=made, last=last))
    (context / ".dockerignore").write_text(f"*\n!sent.txt\n!kept\n{ignored}")
    for name in ("sent.txt", "kept/one.txt"):
        (context / name).write_text(name)
    try:
        return Builder(context, python_base, stages, {}).build()
    finally:
        shutil.rmtree(stages / "stage-0", ignore_errors=True)


def test_a_stage_holds_only_what_is_copied_into_it(folder: Path, python_base: Path) -> None:
    made = build(folder / "small", python_base, made="touch /made/file /left")
    assert (made.root / "made/file").is_file()
    assert not (made.root / "left").exists()
    assert not (made.root / "src").exists()
    assert (made.ids, made.command, made.env["A"]) == ((7, 8), ["true"], "b")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"made": "curl --version"}, "curl: not found"),
        ({"last": 'SHELL ["bash"]'}, "not understood"),
        ({"last": "COPY --from=build /absent /x"}, "/absent"),
        ({"ignored": "kept/one.txt"}, "not let in by .dockerignore"),
    ],
)
def test_a_dockerfile_that_an_engine_would_refuse_fails(
    folder: Path, python_base: Path, steps: dict[str, str], message: str
) -> None:
    with pytest.raises((AssertionError, OSError), match=message):
        build(folder / "small", python_base, **steps)


def status(container: Container) -> dict[str, str]:
    """What the kernel says of a container's first process."""
    lines = Path(f"/proc/{container.pid}/status").read_text().splitlines()
    return dict(re.split(r":\s*", line, maxsplit=1) for line in lines)


def containers(release: Release) -> list[tuple[Pod, Container]]:
    return [(pod, each) for pod in release.pods for each in pod.containers.values()]


def test_every_container_runs_without_rights_where_nothing_can_be_written(
    release: Release,
) -> None:
    for pod, container in containers(release):
        found = status(container)
        capabilities = {int(found[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")}
        assert capabilities == {0}, pod.name
        assert found["NoNewPrivs"] == "1", pod.name
        assert found["Seccomp"] == ("2" if oci.SECCOMP.exists() else "0"), pod.name
        settings = container.settings
        assert found["Uid"].split() == [str(settings.uid)] * 4 != ["0"] * 4, pod.name
        refused = container.execute("sh", "-c", "echo x > /usr/x")
        assert "Read-only file system" in refused.stderr, pod.name
        assert container.memory()["limit"] == settings.memory_bytes, pod.name


def test_users_are_those_of_the_values_or_those_that_openshift_gives(release: Release) -> None:
    used = {each.settings.uid: each.settings.gid for _, each in containers(release)}
    start = release.kubelet.range_start
    assert used == ({10001: 10001, 999: 999} if start is None else {start: 0})


def test_the_health_check_of_the_image_passes(release: Release) -> None:
    image = release.kubelet.images["ojs-cluster"]
    (container,) = release.api.containers.values()
    done = container.execute(*image.health)
    assert (done.returncode, done.stderr) == (0, "")


@CHARTS_USERS
def test_the_image_ships_what_runs_and_no_more(release: Release) -> None:
    assert_shipped(release.kubelet.images["ojs-cluster"].root)
    (container,) = release.api.containers.values()
    assert container.execute("ojsctl", "doctor", "--help").returncode == 0


@CHARTS_USERS
def test_the_image_serves_without_the_charts_command_and_user(release: Release) -> None:
    bare = copy.deepcopy(release.rendering.api)
    spec = bare["spec"]["template"]["spec"]
    del spec["containers"][0]["command"]
    del spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsGroup"]
    pod = release.kubelet.start("bare", bare)
    pod.await_ready()
    (container,) = pod.containers.values()
    uid, gid = release.kubelet.images["ojs-cluster"].ids
    found = status(container)
    assert (found["Uid"].split()[0], found["Gid"].split()[0]) == (str(uid), str(gid))
    assert uid
    assert gid
    assert container.ended() is None
    assert set(release.kubelet.stop(pod).values()) == {0}


def test_the_hook_of_helm_test_passes(release: Release) -> None:
    hook = release.kubelet.start("hook", release.rendering.one("Pod", "-test"))
    (container,) = hook.containers.values()
    try:
        assert container.wait(PATIENCE_S) == 0, hook.text()
    finally:
        release.kubelet.stop(hook)


@CHARTS_USERS
async def test_the_api_survives_headers_that_unpack_within_its_limit(release: Release) -> None:
    (container,) = release.api.containers.values()
    running = processes(container.pid)
    assert len(running) >= 2, "the supervisor and its process"

    await attack((release.api.address, 8080), None, None)

    # The kernel kills a process of a container that exceeds its limit.
    assert processes(container.pid) == running, container.text()


async def test_a_lost_node_comes_back_empty_and_no_job_is_lost(release: Release) -> None:
    await lose_masters(release, 1)


@pytest.mark.soak  # a minute and a half: nothing is taken over before it has been gone for long
@CHARTS_USERS
async def test_two_masters_that_are_lost_at_once_come_back_and_no_job_is_lost(
    release: Release,
) -> None:
    await lose_masters(release, 2)


async def lose_masters(release: Release, count: int) -> None:
    """Lose masters with their hosts, under load; all that was acknowledged is done at the end."""
    rows = {pod.name: release.own_row(pod) for pod in release.all_nodes()}
    gone = [pod for pod in release.all_nodes() if "master" in rows[pod.name][2]][:count]

    def lose() -> None:
        indexes = [release.all_nodes().index(pod) for pod in gone]
        for pod in gone:
            release.kubelet.lose(pod)
        for index in indexes:
            release.start_node(index)

    async with running_load(
        release.url, producers=1, workers=1, headers=AUTHORIZATION, timeout_s=PATIENCE_S
    ) as load:
        await load.progress(20, PATIENCE_S)
        await trio.to_thread.run_sync(lose)
        await trio.to_thread.run_sync(release.await_whole)
        await load.progress(20, PATIENCE_S)
        await load.drain(PATIENCE_S)

    masters, _ = release.layout()
    assert not set(masters) & {rows[pod.name][0] for pod in gone}, "the lost ones are new nodes"
    assert load.ledger.violations == []
    assert {state(release, id_) for id_ in load.ledger.acknowledged} == {"completed"}


def state(release: Release, id_: str) -> str:
    answer = httpx.get(f"{release.url}/ojs/v1/jobs/{id_}", headers=AUTHORIZATION, timeout=60)
    answer.raise_for_status()
    return str(json.loads(answer.content)["job"]["state"])


@CHARTS_USERS
@pytest.mark.parametrize("name", ["api", "scheduler"])
def test_it_ends_in_time_when_it_is_told_to(release: Release, name: str) -> None:
    pod = release.kubelet.pods[name]
    owner = getattr(release.rendering, name)

    assert set(release.kubelet.stop(pod).values()) == {0}

    release.kubelet.start(name, owner)
    release.kubelet.pods[name].await_ready()
