"""Commands: one file per command, with its whole flow."""
