"""Find the worker of an application by its name."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any

from ojs_client.tasks.app import App
from ojs_client.worker.worker import Worker


def load(target: str, arguments: Mapping[str, Any], number: int | None = None) -> Worker:
    """Import an App, a Worker or a function that returns a Worker, and return the worker.

    Args:
        target: its module and its name, as ``module:name``, also of the working directory.
        arguments: arguments of ``Worker`` that replace those of the application. A function gets
            them.
        number: what makes the id of a Worker unique among several processes.

    Raises:
        ImportError: there is no such module or name.
        TypeError: it is something else.
        ValueError: an argument is not allowed.
    """
    module_name, _, path = target.partition(":")
    if (folder := os.getcwd()) not in sys.path:
        sys.path.insert(0, folder)
    found: Any = importlib.import_module(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            raise ImportError(f"{module_name} has no '{path}'")
        found = getattr(found, name)
    if inspect.isfunction(found):
        found, arguments = found(**arguments), {}
    if isinstance(found, App):
        return found.worker(**arguments)
    if isinstance(found, Worker):
        if found.view.has_given_id:  # which the copy would not have
            suffix = "" if number is None else f"-{number}"
            arguments = {"worker_id": f"{found.worker_id}{suffix}", **arguments}
        return found.copy(**arguments) if arguments else found
    raise TypeError(f"{target} is a {type(found).__name__}, not an App or a Worker")
