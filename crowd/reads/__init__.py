"""Reads that go straight through to an upstream, and their answers back, piece by piece."""
