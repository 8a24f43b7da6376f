#!/usr/bin/env bash
# Creates a kind cluster with three workers, builds the image into it and runs tests/cluster there.
# `make cluster-test` calls it. Needs docker (or podman), kind, kubectl and helm on PATH.
#
#   OJS_KIND_CLUSTER  name of the cluster (ojs-test); one that exists is used, and kept
#   OJS_TEST_IMAGE    name of the image (ojs-cluster:test)
#   PYTEST            how pytest is called; arguments of this script are passed on to it
set -euo pipefail
cd "$(dirname "$0")/../.."

name=${OJS_KIND_CLUSTER:-ojs-test}
export OJS_TEST_IMAGE=${OJS_TEST_IMAGE:-ojs-cluster:test}
engine=docker
command -v docker >/dev/null || engine=podman

for program in "$engine" kind kubectl helm; do
  command -v "$program" >/dev/null || { echo "cluster-test needs $program on PATH" >&2; exit 1; }
done

folder=$(mktemp -d)
created=
# shellcheck disable=SC2317 # called by the trap
cleanup() {
  [ -z "$created" ] || kind delete cluster --name "$name"
  rm -rf "$folder"
}
trap cleanup EXIT

if ! kind get clusters 2>/dev/null | grep -qx "$name"; then
  created=yes
  kind create cluster --name "$name" --config tests/cluster/kind.yaml --wait 180s
fi
export OJS_TEST_KUBECONFIG="$folder/kubeconfig"
kind get kubeconfig --name "$name" >"$OJS_TEST_KUBECONFIG"

"$engine" build --tag "$OJS_TEST_IMAGE" .
"$engine" save --output "$folder/image.tar" "$OJS_TEST_IMAGE"
kind load image-archive "$folder/image.tar" --name "$name"

# One after the other: the tests drain the hosts that they share.
# A scenario may take longer than the watchdog of hanging tests allows, which ends the run without its cleanup.
${PYTEST:-.venv/bin/pytest} tests/cluster -p no:xdist -o faulthandler_timeout=0 -ra "$@"
