"""Training: the dataset and its checks, buckets, caches. Host-free."""
