"""Random faults under a mixed load of all features, and a checker of what every client saw."""
