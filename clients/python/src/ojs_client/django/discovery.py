"""Find the tasks of a project."""

from __future__ import annotations

import sys
from typing import Any

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
    return found if isinstance(found, Task) and found.module_path == path else None


def all_tasks() -> dict[str, Task[..., Any]]:
    """Import the modules ``tasks`` of the apps, and return the tasks of all modules by path."""
    autodiscover_modules("tasks")
    found = (
        value
        for module in list(sys.modules.values())
        for value in list(vars(module).values())
        if isinstance(value, Task)
    )
    return {task.module_path: task for task in found if find_task(task.module_path) is task}
