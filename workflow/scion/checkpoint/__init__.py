"""Safetensors files, shards and index as one mapping, here or on the hub."""
