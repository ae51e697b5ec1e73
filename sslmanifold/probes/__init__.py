"""Downstream probes: what a representation can be used for."""
