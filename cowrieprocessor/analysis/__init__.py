"""Captured files: scans Cowrie's downloads folder, reading each file once and executing nothing."""
