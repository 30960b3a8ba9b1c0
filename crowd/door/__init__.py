"""The front door of a route: who may post there, and what. Pure."""
