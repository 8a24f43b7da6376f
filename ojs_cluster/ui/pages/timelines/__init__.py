"""What happened to jobs and to the steps of workflows, along the time."""
