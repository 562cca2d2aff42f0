"""Tag images at scale: train and run a multi-label classifier on Ray, from images in a bucket to Parquet files."""
