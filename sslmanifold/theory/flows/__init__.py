"""Exact flows of constrained training, one file each."""
