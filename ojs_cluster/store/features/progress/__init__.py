"""Progress of active jobs: what workers report while they run a job."""
