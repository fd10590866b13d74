"""The `mprm` command and the runs behind every claim."""
