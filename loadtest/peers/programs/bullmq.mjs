// Produce or run jobs with BullMQ; finished jobs are removed. The arguments and lines are those of base.py.
import { createRequire } from "node:module";
const { FlowProducer, Queue, Worker } = createRequire(`${process.env.PEER_FOLDER}/`)("bullmq");

const SIZE = 200;
const BATCH = 100;
const spec = JSON.parse(process.argv[2]);
const connection = { host: "127.0.0.1", port: Number(new URL(spec.url).port), maxRetriesPerRequest: null };
const now = () => Number(process.hrtime.bigint()) / 1e9;
const say = (what, result = {}) => process.stdout.write(`${what} ${now()} ${JSON.stringify(result)}\n`);
const text = (number) => String(number).padStart(SIZE, "0");
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

const warmUp = Math.floor(spec.jobs / 4);
let left = spec.jobs;
const delays = [];
const failed = new Set();

function percentiles() {
  const times = delays.slice(Math.floor(delays.length / 5)).sort((a, b) => a - b);
  if (!times.length) return {};
  return { p50: times[Math.floor(times.length / 2)] * 1000, p99: times[Math.floor(times.length * 0.99)] * 1000 };
}

async function handle(job) {
  const time = now();
  const { argument } = job.data;
  if (spec.kind === "retry" && !failed.has(argument)) {
    failed.add(argument);
    throw new Error("the first attempt fails");
  }
  if (left === spec.jobs - warmUp) say("began");
  left -= 1;
  if (argument.length < SIZE) delays.push(time - Number(argument));
  if (left === 0) say("ended", percentiles());
}

function optionsOf(number) {
  const options = { removeOnComplete: true };
  if (spec.kind === "delayed") options.delay = 1000;
  if (spec.kind === "retry") Object.assign(options, { attempts: 2, backoff: 100 });
  if (spec.kind === "unique") options.deduplication = { id: `${spec.queue}-${number}` };
  if (spec.kind === "priority") options.priority = (number % 10) + 1;
  return options;
}

async function produce() {
  const queue = new Queue(spec.queue, { connection });
  await queue.waitUntilReady();
  if (spec.kind === "concurrency") await queue.setGlobalConcurrency(1000000);
  let next = 0;
  const began = now();
  const loop = async () => {
    while (next < spec.jobs) {
      const number = next++;
      if (number === warmUp) say("began");
      let argument = text(number);
      if (spec.rate) {
        const due = began + number / spec.rate;
        if (due > now()) await sleep(due - now());
        argument = String(due);
      }
      await queue.add("noop", { argument }, optionsOf(number));
    }
  };
  const addMany = (start, size) =>
    queue.addBulk(
      Array.from({ length: size }, (_, i) => ({ name: "noop", data: { argument: text(start + i) }, opts: optionsOf(start + i) })),
    );
  if (spec.kind === "batch") {
    for (let start = 0; start < warmUp; start += BATCH) await addMany(start, Math.min(BATCH, warmUp - start));
    say("began");
    for (let start = warmUp; start < spec.jobs; start += BATCH) await addMany(start, Math.min(BATCH, spec.jobs - start));
  } else {
    await Promise.all(Array.from({ length: spec.tasks }, loop));
  }
  say("ended");
}

async function flow() {
  const producer = new FlowProducer({ connection });
  await producer.waitUntilReady();
  const step = (number, children) => ({
    name: "noop",
    queueName: spec.queue,
    data: { argument: text(number) },
    opts: optionsOf(number),
    children,
  });
  say("began");
  if (spec.kind === "chain") {
    let tree = step(0);
    for (let number = 1; number < spec.jobs; number++) tree = step(number, [tree]);
    await producer.add(tree);
  } else {
    await producer.add(step(0, Array.from({ length: spec.jobs - 1 }, (_, i) => step(i + 1))));
  }
  say("ended");
}

if (spec.role === "work") {
  const limiter = spec.kind === "rate" ? { max: 1000000, duration: 1000 } : undefined;
  new Worker(spec.queue, handle, { connection, concurrency: spec.tasks, limiter });
} else if (spec.role === "flow") {
  await flow();
} else {
  await produce();
}
process.stdin.resume().on("end", () => process.exit()); // until the process that measures ends
