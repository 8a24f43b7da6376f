"""Handlers that the tests run in child processes, which import this module."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from ojs_client import Discard, ProcessJob, Retry


def do(job: ProcessJob) -> Any:
    """Do what the first argument of the job says."""
    what, *args = job.args
    match what:
        case "pid":
            return os.getpid()
        case "raise":
            raise ValueError(args[0])
        case "discard":
            raise Discard("wrong", code="wrong")
        case "pause":
            raise Retry("a pause", hold=args[0])
        case "hold_key":
            raise Retry("busy", hold=60)
        case "exit":
            sys.exit(3)
        case "die":
            os._exit(3)
        case "object":
            return object()
        case "hold":
            sys.setswitchinterval(1000)  # threads of this process would wait
            ends_at = time.monotonic() + args[0]
            while time.monotonic() < ends_at:
                pass
            return job.attempt
        case "report":
            if job.checkpoint is None:
                job.progress(0.5, "half", data={"n": 1})
                job.save_checkpoint({"at": 7})
                raise RuntimeError("again")
            return job.checkpoint
        case "stay":
            with open(args[0], "w") as file:
                file.write(str(os.getpid()))
            time.sleep(600)
    return None
