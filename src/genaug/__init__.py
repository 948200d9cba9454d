"""genaug: experiments with generative data augmentation for image classification."""

__version__ = "0.1.0"
