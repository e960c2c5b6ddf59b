"""The commands of `regsearch`, each of which reads its options, calls, and prints; see `cli`."""
