"""What the `crowd` command does besides running a node: one module a command."""
