"""Configs of other trainers, read as options of ours, so that what somebody already runs can be priced."""
