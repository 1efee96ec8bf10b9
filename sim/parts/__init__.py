"""What both boards are made of: camera sensors, pictures before them, the serial loader, the flash chip, wiring."""
