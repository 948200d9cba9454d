"""Classifiers by name: torchvision, timm and tiny ones."""
