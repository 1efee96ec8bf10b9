"""A Kendryte K210 on the Unicorn engine, complete enough to boot stock MaixPy images."""
