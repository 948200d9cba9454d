from genaug.generation.layerdiffuse.layerdiffuse import LayerDiffuse

__all__ = ["LayerDiffuse"]
