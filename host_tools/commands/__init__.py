"""One module a command: add_arguments(parser), run(args) -> int."""
