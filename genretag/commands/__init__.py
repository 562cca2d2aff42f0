"""Functions behind the commands, one file per command. Those of `report` and `gallery` are in `reports/`."""
