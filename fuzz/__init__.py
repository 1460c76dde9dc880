"""Readers of what strangers wrote, each as a function of bytes that may raise our own errors and nothing else."""
