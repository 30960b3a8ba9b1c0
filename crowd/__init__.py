"""crowd: an HTTP front door that never loses what it has acknowledged.

``docs/architecture.md`` draws the rooms of this package and which way imports run.
"""

__version__ = "0.1.0"
