"""The chart on a real Kubernetes cluster, seen from outside.

Needs ``OJS_TEST_KUBECONFIG``, a kubeconfig whose current context is the cluster to test on, and
``OJS_TEST_IMAGE``, the image as its nodes can pull it; skipped without them. docs/operations.md
says how to run it.
"""
