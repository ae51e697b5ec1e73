"""Configuration: where it lies, how it is composed and checked."""
