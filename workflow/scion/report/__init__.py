"""What people read: summary, card, pictures, comparison."""
