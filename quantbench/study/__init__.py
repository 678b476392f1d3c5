"""Studies: sweeps, tables and figures named in one file, and how far they are."""
