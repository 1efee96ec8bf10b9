"""PoseNet weights in any of their forms → a kmodel that stock MaixPy loads."""
