"""Sends a command to a Ray cluster as a job: `genretag submit`."""
