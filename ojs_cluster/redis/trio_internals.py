"""What this server uses of trio beyond its public API; no other module may (``test_private_uses``).

``GLOBAL_RUN_CONTEXT.task`` is the current task. ``DrivenCoroutine.step`` deletes it while a
coroutine runs without a task: otherwise a cancel scope of that request would apply to the task that
reads the replies of Redis. trio has no public function for it (docs/adr/033).
``tests/redis/test_driven_coroutines.py`` fails if a release of trio keeps the task elsewhere.
"""

from trio._core._run import GLOBAL_RUN_CONTEXT

__all__ = ["GLOBAL_RUN_CONTEXT"]
