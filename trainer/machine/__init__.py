"""This computer and any card: processes, processors, devices, signals, the network."""
