"""The routes, by subject. Plain functions: they wait for the disk, so each runs on a thread of the server's pool."""
