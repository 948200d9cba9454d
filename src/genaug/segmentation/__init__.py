"""Segmenters: image and words (or a box) in, mask out. One file each."""
