"""The parts that both boards share: camera sensors, the pictures that they see, the serial loader, the flash chip."""
