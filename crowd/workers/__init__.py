"""Processes beside the engine's that take producers' requests: `node.workers` of them.

The engine's process starts them (`crew`), hears what they take (`worker`) and hands it to its
proposer. A worker's process (``python -m crowd.workers``) builds the same ingress as a node without
workers (`crowd.ingress`), with an acceptor that asks the engine over a socket (`acceptor`).
"""
