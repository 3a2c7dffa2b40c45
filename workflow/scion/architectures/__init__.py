"""What a config.json implies: tensors, what quantizes, what engines fuse."""
