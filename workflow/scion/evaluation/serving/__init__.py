"""Speed and acceptance on a real server."""
