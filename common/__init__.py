"""The ground floor: what every other part of the host's code stands on."""
