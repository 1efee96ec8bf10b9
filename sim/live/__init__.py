"""A simulated or emulated board in real time: behind serial ports, and on a web page."""
