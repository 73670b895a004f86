"""What several replicas share: a PostgreSQL database and a store of blobs."""
