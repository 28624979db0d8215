"Bad input, kills, leaks and forgeries: what SECURITY.md promises is tried here."
