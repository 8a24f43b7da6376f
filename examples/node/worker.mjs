// A worker in Node 20 or newer without any package: fetch with a long poll, heartbeat, ack, drain at SIGTERM.
//
//   OJS_URL=http://localhost:8080 node worker.mjs

import { setTimeout as sleep } from "node:timers/promises";
import { hostname } from "node:os";

const url = `${process.env.OJS_URL ?? "http://localhost:8080"}/ojs/v1/workers`;
const workerId = `${hostname()}-${crypto.randomUUID()}`;
const concurrency = 10;
const leaseMs = Number(process.env.LEASE_MS ?? 30_000);

// A handler gets the job and a signal that is aborted when the lease is lost. What it returns is
// the result of the job. An exception fails the attempt; the retry policy repeats it.
const handlers = {
  "image.resize": async (job, signal) => {
    const { width, height, scale, seconds = 0 } = job.args[0];
    if (scale <= 0) throw new NotRetryable("the scale is not positive");
    await sleep(seconds * 1000, undefined, { signal }); // the work
    return { width: width * scale, height: height * scale };
  },
};

class NotRetryable extends Error {}

const held = new Map(); // lease id -> the job, its AbortController and the promise of its end
let quiet = false; // whether an operator has stopped the fetches of this worker
const stopping = new AbortController();
for (const name of ["SIGTERM", "SIGINT"]) process.once(name, () => stopping.abort());

async function send(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  if (process.env.OJS_API_KEY) headers.Authorization = `Bearer ${process.env.OJS_API_KEY}`;
  const response = await fetch(url + path, {
    method,
    headers,
    body: JSON.stringify({ worker_id: workerId, ...body }),
    signal: AbortSignal.timeout(20_000),
  });
  const reply = await response.json();
  if (response.ok) return reply;
  throw Object.assign(new Error(reply.error?.message), { status: response.status });
}

const post = (path, body) => send("POST", path, body);

// An ack may be repeated: the server recognizes it by its lease.
async function settle(path, job, body) {
  for (let tries = 0; tries < 10; tries++) {
    try {
      return await post(path, { job_id: job.id, lease_id: job.lease_id, ...body });
    } catch (error) {
      if (error.status === 409) return console.log(`job ${job.id}: the lease is lost`);
      console.error(`job ${job.id}: ${path} failed: ${error.message}`);
      await sleep(1000);
    }
  }
}

async function run(job, signal) {
  try {
    const handler = handlers[job.type];
    if (!handler) throw new NotRetryable(`no handler for ${job.type}`);
    const result = await handler(job, signal);
    await settle("/ack", job, { result });
  } catch (error) {
    const retryable = !(error instanceof NotRetryable);
    await settle("/nack", job, {
      error: { type: error.name, message: error.message, retryable },
    });
  } finally {
    held.delete(job.lease_id);
  }
}

// Heartbeats keep the leases of all jobs until their acks are in.
async function beat() {
  const jobs = [...held.values()].map(({ job }) => job);
  const reply = await post("/heartbeat", {
    state: stopping.signal.aborted ? "quiet" : "running",
    active_jobs: jobs.map((job) => job.id),
    leases: Object.fromEntries(jobs.map((job) => [job.id, job.lease_id])),
    visibility_timeout_ms: leaseMs,
  });
  const kept = new Set(reply.jobs_extended);
  for (const job of jobs) if (!kept.has(job.id)) held.get(job.lease_id)?.controller.abort();
  quiet = reply.state === "quiet";
  if (reply.state === "terminate") stopping.abort();
}

let lastBeat;
const beating = setInterval(() => {
  lastBeat = beat().catch((error) => console.error(`heartbeat failed: ${error.message}`));
}, leaseMs / 6);

// Without it, the worker would stay in the list of workers for a time.
async function leave() {
  await post("/heartbeat", { state: "terminate", active_jobs: [] });
  await send("DELETE", `/${encodeURIComponent(workerId)}`);
}

console.log(`worker ${workerId} started`);
while (!stopping.signal.aborted) {
  if (held.size >= concurrency) {
    await Promise.race([...held.values()].map(({ ended }) => ended));
    continue;
  }
  if (quiet) {
    await sleep(1000);
    continue;
  }
  try {
    // The fetch waits on the server until a job comes. It is not aborted at SIGTERM: the server
    // could have sent jobs, which would then wait until their leases end.
    const { jobs } = await post("/fetch", {
      queues: ["images"],
      count: concurrency - held.size,
      wait_ms: 2000,
      visibility_timeout_ms: leaseMs,
    });
    for (const job of jobs) {
      const controller = new AbortController();
      const entry = { job, controller };
      held.set(job.lease_id, entry);
      entry.ended = run(job, controller.signal);
    }
  } catch (error) {
    console.error(`fetch failed: ${error.message}`);
    await sleep(1000);
  }
}

console.log(`drains ${held.size} jobs`);
await Promise.all([...held.values()].map(({ ended }) => ended));
clearInterval(beating);
await lastBeat; // a heartbeat after the removal would add the worker again
await leave().catch((error) => console.error(`the worker stays listed: ${error.message}`));
