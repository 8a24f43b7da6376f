"""Count the words of some texts at the same time, and add the numbers up: a workflow with results.

The program runs its own worker, prints the total, and ends. In production, the worker and the
program that starts the workflow are usually different processes.
"""

import anyio

from ojs_client import Client, RunningJob, Worker, chain, group, new_job

QUEUE = "texts"
worker = Worker(queues=[QUEUE])


@worker.handler("text.count")
async def count(job: RunningJob) -> int:
    """Return the number of words. The result of a job is any JSON value."""
    return len(job.args[0].split())


@worker.handler("text.total")
async def total(job: RunningJob) -> dict[str, int]:
    """Add up the results of the earlier steps: of one step, the group, whose result is a list."""
    (counts,) = job.parent_results
    return {"texts": len(counts), "words": sum(counts)}


async def count_words(texts: list[str]) -> dict[str, int]:
    """Start the workflow, wait for its end, and return the result of its last step."""
    async with Client() as client:
        started = await client.start(
            chain(
                group(*(new_job("text.count", text, queue=QUEUE) for text in texts)),
                new_job("text.total", queue=QUEUE),
                name="word count",
            )
        )
        print(f"workflow {started.id} counts {len(texts)} texts", flush=True)
        ended = await client.workflow(started.id, wait=60)
        if ended.state != "completed":
            raise RuntimeError(f"the workflow is {ended.state}: {ended.steps}")
        result: dict[str, int] = ended.steps[-1].result
        return result


async def main() -> None:
    """Run the worker while the workflow runs."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.serve)
        print(await count_words(["to be or not to be", "that is the question", "whether"]))
        worker.stop()


if __name__ == "__main__":
    anyio.run(main)
