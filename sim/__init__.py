"""PoseNet on a computer: engines, the board's own decoder, simulated boards."""
