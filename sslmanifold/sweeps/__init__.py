"""Sweeps: what makes a job the same job, which jobs are done, and how a sweep ends."""
