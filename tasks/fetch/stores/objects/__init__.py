"""The object store: a prefix of an S3 bucket as a target; see `store.ObjectStore`."""
