"""List and search jobs, newest first, with a bound on the work of each page."""
