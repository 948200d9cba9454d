"""Saliency maps: where an image shows what it is about. One file each; a mixer asks for one when it mixes."""
