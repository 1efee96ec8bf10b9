"""A simulated or emulated board on the clock of the wall: behind serial ports, and on a web page."""
