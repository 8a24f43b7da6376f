"""The pages about queues: the list, one queue, and the forms that change it."""
