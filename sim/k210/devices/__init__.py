"""On-chip devices, one module each; register names from the data sheet and the Kendryte SDK."""
