"""Jobs that never end by themselves: following logs and scanning folders as they change."""
