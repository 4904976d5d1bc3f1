"""Run a command on a corpus: in shards, by shells, a job array or Ray. A stopped run can be continued."""
