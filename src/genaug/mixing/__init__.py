"""Batch mixers: images and soft labels in, images and soft labels out. One file each."""
