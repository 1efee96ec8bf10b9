"""On-chip devices, one in each module; register names from the data sheet and the Kendryte SDK."""
