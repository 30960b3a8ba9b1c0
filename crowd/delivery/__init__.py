"""Delivery: from accepted messages to answered attempts; see docs/explanation/delivery.md."""
