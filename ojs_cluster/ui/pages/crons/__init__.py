"""The pages about cron jobs: the list, one cron job, and the form that changes it."""
