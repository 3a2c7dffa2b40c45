"""What serving engines make of a checkpoint, and how their servers are started and stopped."""
