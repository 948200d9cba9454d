"""Pure array and tensor maths shared by methods, mixers and segmenters."""
