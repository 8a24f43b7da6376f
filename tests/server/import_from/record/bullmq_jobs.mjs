// Writes jobs with BullMQ: node bullmq_jobs.mjs redis://host:port
import { FlowProducer, Queue, Worker } from 'bullmq'

const address = new URL(process.argv[2])
const connection = { host: address.hostname, port: Number(address.port), maxRetriesPerRequest: null }
const mail = new Queue('mail', { connection })
const billing = new Queue('Billing_EU', { connection })

await mail.add('send-email', { to: 'a@example.com', subject: 'Größe' })
await mail.add('send-email', { to: 'b@example.com' }, { attempts: 5, backoff: { type: 'exponential', delay: 2000 } })
await mail.add('SendDigest', { big: 1 }, { priority: 10 })
await mail.add('SendDigest', { big: 2 }, { priority: 3, jobId: 'digest-7' })
await mail.add('later', [1, 2], { delay: 3600_000 * 24 * 365 * 10 })
await mail.upsertJobScheduler('nightly', { pattern: '0 3 * * *' }, { name: 'report', data: {} })

await billing.add('charge', { order: 7 }, { attempts: 2 })
await billing.add('charge', { order: 8 }, { attempts: 3, backoff: 3600_000 * 24 * 365 * 10 })
const worker = new Worker('Billing_EU', async job => { throw new Error(`card of order ${job.data.order} refused`) }, { connection })
await new Promise(resolve => setTimeout(resolve, 2000))
await worker.close()

const done = new Queue('done', { connection })
await done.add('ok', {})
const second = new Worker('done', async () => 1, { connection })
await new Promise(resolve => setTimeout(resolve, 1000))
await second.close()

const flows = new FlowProducer({ connection })
await flows.add({ name: 'assemble', queueName: 'flow', data: {}, children: [{ name: 'part', queueName: 'flow', data: { n: 1 } }] })

const paused = new Queue('paused-queue', { connection })
await paused.pause()
await paused.add('waits', {})
process.exit(0)
