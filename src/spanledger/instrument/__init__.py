"""Unmodified programs, instrumented: what to wrap, how to describe it, and one engine for all of it."""
