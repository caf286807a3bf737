"""Architectures of published networks, in torch, with the parameter names of their published weights. Nothing here reads a file."""
