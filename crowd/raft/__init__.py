"""Raft: the engine that drives pysyncobj, the journal under it, the links to its peers."""
