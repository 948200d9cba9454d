"""From many runs to one comparison."""
