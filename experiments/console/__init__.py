"""The ground of every command: options, errors, progress, tables; no experiment."""
