"""The command line: one file per command, no logic of its own, heavy imports inside each command."""
