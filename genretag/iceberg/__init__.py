"""An Iceberg table over the part files: a whole night in one commit, read by any warehouse."""
