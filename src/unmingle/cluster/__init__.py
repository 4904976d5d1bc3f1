"""A corpus: a command's work is cut into shards, done by shells, a job array or Ray, and goes on after a stop."""
