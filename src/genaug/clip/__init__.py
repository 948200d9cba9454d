"""CLIP: pictures and words as points of one space, so that either can be compared with the other."""
