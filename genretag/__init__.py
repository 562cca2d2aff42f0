"""Tag images at scale: a multi-label classifier trained and run on Ray, images in a bucket, answers in Parquet."""
