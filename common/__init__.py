"""What every other part of the host's code uses: formats, protocols, poses, pictures, errors."""
