"""What a device is and can do, asked of each framework, for `scripts.bench`.

Each module has `product(side, dtype, device)`, which gives a function that multiplies two square
matrices to the end; `device_name(device)`, None for the CPU; and `device_peak_mb(device)`, the
most memory that the framework has held there, None on the CPU, where the process tells.
"""
