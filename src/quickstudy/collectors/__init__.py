"""How trials are rolled out: on the device, or by workers on the host."""
