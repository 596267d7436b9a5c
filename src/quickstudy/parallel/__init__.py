"""Devices and the axes along which work is spread over them."""
