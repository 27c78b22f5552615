"""Jobs that run until they are stopped: following logs and scanning folders as they change."""
