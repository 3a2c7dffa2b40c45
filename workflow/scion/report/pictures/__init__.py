"""The pictures of card and report."""
