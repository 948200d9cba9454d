"""``stage=assess``: what methods made, measured by fidelity and diversity, side by side."""
