"""Problems of types, hosts and receivers, from what has gone wrong in the last minutes."""

from __future__ import annotations

from collections.abc import Iterator

from ojs_cluster.http.problems import Problem
from ojs_cluster.store.features.cron.firing import QUEUE_FULL, TENANT_LIMIT
from ojs_cluster.ui.cron_incidents import MAX_LATE, SkippedCron
from ojs_cluster.ui.formats import duration, number
from ojs_cluster.ui.incidents import FAILING_MINUTES, MAX_NAMED, RESTART_MINUTES, Incidents
from ojs_cluster.ui.json_view import readable
from ojs_cluster.ui.languages.translate import _, ngettext
from ojs_cluster.ui.limit_incidents import FullKey


def problems_of_incidents(incidents: Incidents) -> Iterator[Problem]:
    """Yield the problems of types, workers, receivers, hung jobs and cron jobs."""
    for each in incidents.failing:
        given = {
            "type": readable(each.name),
            "failed": number(each.failed),
            "ended": number(each.ended),
            "minutes": FAILING_MINUTES,
            "share": round(100 * each.failed / each.ended),
        }
        yield Problem(
            "type_fails",
            _(
                "The type %(type)s fails since %(mark)s: %(failed)s of %(ended)s attempts in the "
                "last %(minutes)s minutes (%(share)s %%)",
                mark=readable(each.mark),
                **given,
            )
            if each.mark_id
            else _(
                "The type %(type)s fails: %(failed)s of %(ended)s attempts in the last %(minutes)s "
                "minutes (%(share)s %%)",
                **given,
            ),
            _(
                "Read the errors of its discarded jobs, and pause its queue or go back to the "
                "version before. Then retry them."
            ),
            ("types", each.name),
            query={"mark": each.mark_id} if each.mark_id else None,
            subject=each.name,
        )
    if incidents.discarded:
        count = sum(jobs for _name, jobs in incidents.discarded)
        names = [readable(name) for name, _jobs in incidents.discarded[:MAX_NAMED]]
        yield Problem(
            "jobs_discarded",
            ngettext(
                "%(number)s job was discarded in the last hour: %(types)s",
                "%(number)s jobs were discarded in the last hour: %(types)s",
                count,
                number=number(count),
                types=", ".join(names) + (" …" if len(incidents.discarded) > MAX_NAMED else ""),
            ),
            _("Read their errors, then retry them while they are kept."),
            ("jobs",),
            query={"state": "discarded"},
        )
    for host, count, every_ms in incidents.restarting[:MAX_NAMED]:
        yield Problem(
            "workers_restart",
            _(
                "Workers on %(host)s end soon after they begin: %(number)s in the last %(minutes)s "
                "minutes, one every %(duration)s",
                host=readable(host),
                number=number(count),
                minutes=RESTART_MINUTES,
                duration=duration(max(1000, every_ms)),
            ),
            _("Read the log of the workers: they crash, or are killed for lack of memory."),
            ("workers",),
            subject=host,
        )
    for subscription_id, host, status, since_ms in incidents.webhooks[:MAX_NAMED]:
        yield Problem(
            "webhook_fails",
            _("The receiver %(host)s of a webhook does not respond", host=readable(host))
            if not status
            else _(
                "The receiver %(host)s of a webhook refuses deliveries (%(status)s)",
                host=readable(host),
                status=status,
            ),
            _(
                "Repair the receiver, or pause the webhook. What was given up can be delivered "
                "again."
            ),
            ("webhooks",),
            query={"subscription": subscription_id},
            subject=subscription_id,
            since_ms=since_ms,
        )
    for job in incidents.hung[:MAX_NAMED]:
        yield Problem(
            "job_hangs",
            _(
                "A job of the type %(type)s has run for %(duration)s, %(times)s times as long as "
                "95 %% of the others",
                type=readable(job.type),
                duration=duration(job.run_ms),
                times=number(int(job.run_ms / max(1.0, job.usual_ms))),
            ),
            _(
                "Look at the worker that runs it. If it hangs, cancel this run on the page of the "
                "job: its worker is told, and the job is retried as its policy says."
            ),
            ("jobs", job.id),
            subject=job.id,
        )
    for killer in incidents.killers:
        given = {
            "id": killer.id,
            "type": readable(killer.type),
            "number": number(killer.deaths),
        }
        yield Problem(
            "job_kills_workers",
            ngettext(
                "The job %(id)s of the type %(type)s kills its workers: %(number)s died while it "
                "ran this job alone",
                "The job %(id)s of the type %(type)s kills its workers: %(number)s died while they "
                "ran this job alone",
                killer.deaths,
                **given,
            ),
            _(
                "Find out what ends the process, such as its memory. Then retry or delete the job, "
                "which does not run any more."
            )
            if killer.has_ended
            else _(
                "Find out what ends the process, such as its memory. The job runs again, alone. "
                "Cancel it to stop that."
            ),
            ("jobs", killer.id),
            severe=True,
            subject=killer.id,
        )
    for cron in incidents.skipped[:MAX_NAMED]:
        yield Problem(
            "cron_skipped",
            _words_of_skipped(cron),
            _("Remove the reason, or run it now. Its history is on its page."),
            ("cron", cron.name),
            subject=cron.name,
            since_ms=cron.since_ms,
        )
    if late := incidents.late.names:
        yield Problem(
            "cron_late",
            ngettext(
                "The cron job %(names)s has not run when it was due",
                "The cron jobs %(names)s have not run when they were due",
                len(late),
                names=", ".join(late[:MAX_LATE]) + (" …" if len(late) > MAX_LATE else ""),
            ),
            _("Check whether a scheduler runs, and read its log."),
            ("cron",),
            True,
            since_ms=incidents.late.since_ms,
        )

    for full in incidents.full:
        yield Problem(
            "rate_limit_full",
            _words_of_full(full),
            _("Find out why its jobs take long, or override its limit until a time."),
            ("limits", full.key),
            subject=full.key,
        )

    for stuck in incidents.stuck:
        given = {
            "id": readable(stuck.id),
            "number": number(stuck.number),
            "step": readable(stuck.step),
            "queue": readable(stuck.queue),
            "type": readable(stuck.type),
        }
        yield Problem(
            "workflow_stuck",
            _(
                "The workflow %(id)s is stuck in step %(number)s (%(step)s): no worker runs the "
                "type %(type)s in the queue %(queue)s",
                **given,
            )
            if stuck.type
            else _(
                "The workflow %(id)s is stuck in step %(number)s (%(step)s): no worker fetches "
                "from the queue %(queue)s",
                **given,
            ),
            _("Start workers for the job of this step, or cancel the workflow."),
            ("workflows", stuck.id),
            subject=stuck.id,
        )

    for greedy in incidents.greedy:
        given = {
            "tenant": readable(greedy.tenant),
            "queue": readable(greedy.queue),
            "percent": number(greedy.percent),
            "behind": readable(greedy.behind),
        }
        yield Problem(
            "tenant_starves",
            _(
                "The tenant %(tenant)s keeps %(behind)s waiting in the queue %(queue)s: "
                "%(percent)s %% of the next jobs are its own",
                **given,
            )
            if greedy.behind
            else _(
                "The tenant %(tenant)s keeps others waiting in the queue %(queue)s: %(percent)s %% "
                "of the next jobs are its own",
                **given,
            ),
            _("Switch on the fair share of the queue, or limit the tenant."),
            ("queues", greedy.queue),
            subject=f"{greedy.queue}/{greedy.tenant}",
        )


def _words_of_full(full: FullKey) -> str:
    given = {"key": readable(full.key), "limit": number(full.limit)}
    if full.is_rate:
        return _(
            "Jobs wait for the rate limit key %(key)s, which lets %(limit)s start per period",
            **given,
        )
    if not full.limit:
        return _("Jobs wait for the rate limit key %(key)s, which lets no job run", **given)
    return _(
        "Jobs wait for the rate limit key %(key)s, which lets %(limit)s run at a time: those of "
        "%(names)s",
        names=", ".join(map(readable, full.holders)),
        **given,
    )


def _words_of_skipped(cron: SkippedCron) -> str:
    given = {"name": cron.name, "times": number(cron.count)}
    if cron.reason == "overlap":
        return _(
            "The cron job %(name)s starts no job, because its earlier run has not ended "
            "(skipped: %(times)s)",
            **given,
        )
    if cron.reason == QUEUE_FULL:
        return _(
            "The cron job %(name)s starts no job, because its queue is full (skipped: %(times)s)",
            **given,
        )
    if cron.reason == TENANT_LIMIT:
        return _(
            "The cron job %(name)s starts no job, because its tenant has reached a limit "
            "(skipped: %(times)s)",
            **given,
        )
    return _(
        "The cron job %(name)s starts no job, because none can be made of its definition "
        "(skipped: %(times)s)",
        **given,
    )
