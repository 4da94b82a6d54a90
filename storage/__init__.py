"""The bytes of files: in a folder, or in S3-compatible object storage."""
