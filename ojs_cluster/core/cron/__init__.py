"""Cron: schedules, and the definitions of cron jobs (spec: ojs-cron)."""
