"""What every package needs and none owns: errors, files, digests, bounded JSON, text, devices."""
