"""Find the tasks of a project."""

from __future__ import annotations

import sys
from typing import Any, TypeGuard

from django.tasks import Task
from django.utils.module_loading import autodiscover_modules


def find_task(path: str) -> Task[..., Any] | None:
    """Return a task by its path; None if there is none.

    The path may come from any program that enqueues jobs, so no module is imported by it.
    """
    module, _, name = path.rpartition(".")
    if module not in sys.modules:
        autodiscover_modules("tasks")
    found = getattr(sys.modules.get(module), name, None)
    return found if _is_task(found) and found.module_path == path else None


def all_tasks() -> dict[str, Task[..., Any]]:
    """Import the modules ``tasks`` of the apps, and return the tasks of all modules by path."""
    autodiscover_modules("tasks")
    found = (
        value
        for module in list(sys.modules.values())
        for value in list(getattr(module, "__dict__", {}).values())
        if _is_task(value)
    )
    return {path: task for task in found if find_task(path := task.module_path) is task}


def _is_task(value: Any) -> TypeGuard[Task[..., Any]]:
    return issubclass(type(value), Task)  # `isinstance` would set up Django's lazy objects
