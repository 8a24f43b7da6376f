# Writes jobs with Sidekiq: REDIS_URL=redis://host:port ruby sidekiq_jobs.rb
require 'sidekiq'
require 'sidekiq/api'
require 'sidekiq/capsule'
require 'sidekiq/job_retry'

class SendEmail
  include Sidekiq::Job
  sidekiq_options queue: 'mail', retry: 5, tags: ['eu']
end

module Billing
  class ChargeJob
    include Sidekiq::Job
    sidekiq_options queue: 'billing_eu', backtrace: true
  end
end

SendEmail.perform_async('a@example.com', { 'subject' => 'Größe' })
SendEmail.perform_async('b@example.com', {})
SendEmail.perform_at(Time.utc(2040, 1, 2, 3, 4, 5), 'c@example.com', {})
Billing::ChargeJob.set(retry: false).perform_async(7)

# As Active Job's adapter stores a job.
Sidekiq::Client.push(
  'class' => 'ActiveJob::QueueAdapters::SidekiqAdapter::JobWrapper', 'wrapped' => 'WelcomeJob', 'queue' => 'mail',
  'args' => [{ 'job_class' => 'WelcomeJob', 'arguments' => ['d@example.com', 3] }]
)

# Sidekiq's own handling of failures: the first failure, and the last of three.
retrier = Sidekiq::JobRetry.new(Sidekiq.default_configuration.default_capsule)
first = { 'class' => 'Billing::ChargeJob', 'args' => [8], 'queue' => 'billing_eu', 'retry' => true, 'backtrace' => true,
          'jid' => 'aaaaaaaaaaaaaaaaaaaaaaaa', 'created_at' => 1_790_000_000.25, 'enqueued_at' => 1_790_000_001.25 }
last = first.merge('args' => [9], 'jid' => 'bbbbbbbbbbbbbbbbbbbbbbbb', 'retry' => 3, 'retry_count' => 2,
                   'error_class' => 'ArgumentError', 'failed_at' => 1_790_000_002.0)
[first, last].each do |job|
  retrier.global(Sidekiq.dump_json(job), 'billing_eu') { raise ArgumentError, 'card refused' }
rescue Sidekiq::JobRetry::Handled
  nil
end
