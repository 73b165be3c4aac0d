"""Samples to steps of micro batches: made by threads ahead of time, bad ones replaced, dealt to replicas."""
