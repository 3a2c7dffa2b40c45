"""What quantizing will take: time, memory, disk."""
