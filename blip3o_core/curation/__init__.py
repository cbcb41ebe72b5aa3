"""The data engine: from a pile of images and texts to shards that the trainer streams, with a reason for every drop."""
