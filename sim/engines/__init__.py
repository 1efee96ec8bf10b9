"""What computes the heads from a picture: kpu (integer simulator), tflite (float), nncase (cross-check)."""
