"""CSVs as tables: their columns, what changed in them, and their conversion to Parquet."""
