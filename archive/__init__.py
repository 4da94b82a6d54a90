"""The local copy of the ledger: records that outlive Redis, in a database or in Parquet files."""
