"""What a run leaves behind: its identity, one parquet file per run, and the W&B copy."""
