"""Doing a sweep's runs elsewhere: on Slurm, on Ray, or in processes of their own on this machine's GPUs."""
