"""The commands, one module for each thing they are about. `cli` puts them together."""
