"""Everything that talks to a board: ports, flashing, serial link, diff, monitor."""
