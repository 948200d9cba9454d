"""Explainers: a network and images in, a map of what mattered for a class out. One file each."""
